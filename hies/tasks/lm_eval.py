"""lm-eval around a network in memory: its task definitions, prompts, log-likelihoods, generation and answer filters.

Only the documents are handed in, so that they may lie anywhere. Prompts, options and few-shot examples are made by
lm-eval's own code from its own YAML files, and its seed, so that the answers are those that its numbers come from. It
is an extra (`llm`) and is imported when it is needed. Nothing here reaches a network.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import re
import string
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hies.errors import HiesError, ParameterError
from hies.tasks.base import Answers
from hies.tasks.choices import chosen_options, option_losses
from hies.tasks.hub import no_progress_bars
from hies.tasks.lm_eval_definitions import PACKAGE, definition, is_defined, version

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

__all__ = ["choose", "definition", "extracted", "generate", "is_defined", "normalized_text", "prompts", "version"]

UNFILTERED: dict[str, Any] = {
    "name": "none",
    "filter": [{"function": "take_first"}],
}  # lm-eval's, where a definition has no filters
TEMPLATES = 256  # compiled at a time; every task has a few
Columns = dict[str, list[Any]]


def prompts(
    path: str, documents: pd.DataFrame, pool: pd.DataFrame, shots: int | None = None, where: str = "the documents"
) -> tuple[Columns, list[Any]]:
    """Returns what lm-eval puts to a model for each document, in order, and the right answers.

    Args:
        path: of the task's definition.
        documents: rows of the data set, as the definition expects them.
        pool: rows that few-shot examples are drawn from by lm-eval's seed, document by document.
        shots: number of few-shot examples; None: as many as the definition says.
        where: what messages call the documents.

    Returns:
        Columns of equal length, and the right answers: the index of an option, or the text that should be generated.
        `contexts`: of each document one text, or one for each option where the options are put into the context
        (WinoGrande). `continuations`: the text after it of each option, with the space that leads it; for a task that
        generates, the right text alone. `sizes`: characters of each option, where lm-eval has `acc_norm`.

    Raises:
        HiesError: a document without a right answer; the pool is too small; lm-eval is missing.
    """
    columns: Columns = {"contexts": [], "continuations": []}
    if any(metric["metric"] == "acc_norm" for metric in definition(path).get("metric_list") or ()):
        columns["sizes"] = []
    answers: list[Any] = []
    if len(documents):
        count = _shots(path, pool, shots)
        with _quiet(), _compiled_once():
            task = _readable_task(path, documents, pool if count else documents.head(1), where)
            for row, document in enumerate(task.task_docs):
                with _reading(f"Row {row} of {where}", path):
                    entries, right = _prompt(task, document, count)
                answers.append(right)
                for name, column in columns.items():
                    column.append(entries[name])
    return columns, answers


def choose(
    network: PreTrainedModel,
    tokenizer: Any,
    columns: Columns,
    batch_size: int,
    precision: str = "float32",
    right: Sequence[int] | np.ndarray | None = None,
) -> Answers:
    """Returns the option that each document's continuation is most likely to be, as lm-eval's `acc` counts.

    Args:
        network: a causal language model, masked or pruned or neither, on any device; its mode stays as it is.
        tokenizer: its tokenizer; stays as it is.
        columns: `contexts`, `continuations` and perhaps `sizes` as `prompts` gives them.
        batch_size: sequences at a time, or as many tokens as that many of the longest have.
        precision: `float32`, or `bfloat16` for matrix products; log-probabilities are in the dtype of the logits.
        right: the right option of each document; None: no losses.

    Returns:
        `predictions`, int64 [documents]; with `sizes` also `norm`, the option of the highest log-likelihood divided by
        its characters, as `acc_norm` counts; with `right` also `losses` and `token_losses`, see `option_losses`.
    """
    requests = [
        [_request("loglikelihood", contexts[i % len(contexts)], text) for i, text in enumerate(continuations)]
        for contexts, continuations in zip(columns["contexts"], columns["continuations"], strict=True)
    ]
    with _wrapped(network, tokenizer, batch_size, precision) as model:
        found = iter(_log_likelihoods(model, [request for options in requests for request in options]))
    by_document = [np.array([next(found) for _ in options]).T for options in requests]  # each [2, options]
    scores, tokens = [pair[0] for pair in by_document], [pair[1] for pair in by_document]
    answers = chosen_options(scores, columns.get("sizes"))
    return answers if right is None else answers | option_losses(scores, tokens, right)


def generate(
    network: PreTrainedModel,
    tokenizer: Any,
    contexts: Sequence[str],
    settings: dict[str, Any],
    batch_size: int,
    precision: str = "float32",
) -> list[str]:
    """Returns what the model writes after each context, greedily unless `settings` say otherwise.

    Args:
        network, tokenizer, batch_size, precision: as for `choose`.
        contexts: prompts; cut on the left to what the model reads at a time less what it may write.
        settings: lm-eval's `generation_kwargs`: `until` (texts that end it), `max_gen_toks` (256 by default), ...

    Raises:
        ParameterError: the model reads no more tokens at a time than it is to write.
    """
    requests = [_request("generate_until", text, copy.deepcopy(settings)) for text in contexts]
    with _wrapped(network, tokenizer, batch_size, precision) as model:
        written = settings.get("max_gen_toks", model.max_gen_toks)
        if written >= model.max_length:
            expected = f"the model reads {model.max_length} tokens at a time and cannot write as many, give fewer"
            raise ParameterError("new_tokens", written, expected)
        return model.generate_until(requests, disable_tqdm=_no_bar()) if requests else []


def extracted(path: str, texts: Sequence[str]) -> dict[str, list[str]]:
    """Returns the answers that the definition's filters find in generated texts, by the name of the filter."""
    from lm_eval.filters import build_filter_ensemble

    requests = [_request("generate_until", resps=[text]) for text in texts]
    answers: dict[str, list[str]] = {}
    for declared in definition(path).get("filter_list") or (UNFILTERED,):
        steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in declared["filter"]]
        if requests:
            build_filter_ensemble(declared["name"], steps).apply(requests)
        answers[declared["name"]] = [request.filtered_resps[declared["name"]] for request in requests]
    return answers


def normalized_text(path: str, text: str) -> str:
    """Returns an answer as the definition's `exact_match` compares it: two are the same if they are equal then."""
    rules = (metric for metric in definition(path).get("metric_list") or () if metric["metric"] == "exact_match")
    rule: dict[str, Any] = next(rules, {})
    for pattern in rule.get("regexes_to_ignore") or ():
        text = re.sub(pattern, "", text)
    text = text.lower() if rule.get("ignore_case") else text
    ignored = {"ignore_punctuation": string.punctuation, "ignore_numbers": string.digits}
    return text.translate(str.maketrans("", "", "".join(chars for name, chars in ignored.items() if rule.get(name))))


def _log_likelihoods(model: Any, requests: list[Any]) -> list[tuple[float, int]]:
    """Returns the log-likelihood of each continuation and the number of its tokens."""
    answer = model._loglikelihood_tokens

    def counted(encoded: list[tuple[Any, list[int], list[int]]], **options: Any) -> Any:
        return [(found[0], len(tokens[2])) for found, tokens in zip(answer(encoded, **options), encoded, strict=True)]

    model._loglikelihood_tokens = counted  # of this wrapper, which is made for one call
    return model.loglikelihood(requests, disable_tqdm=_no_bar()) if requests else []


def _request(kind: str, *arguments: Any, **options: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, arguments, 0, **options)


@contextlib.contextmanager
def _reading(name: str, path: str) -> Iterator[None]:
    """Turns what lm-eval's templates and functions raise for a document into one sentence about it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ParameterError | MemoryError):
            raise
        reason = str(error) if isinstance(error, HiesError) else f"{type(error).__name__}: {error}"
        raise HiesError(
            f"{name} is no document that lm-eval's {path} can ask about ({reason}); leave out rows without an answer, "
            "or give a split that has answers."
        ) from error


def _readable_task(path: str, documents: pd.DataFrame, pool: pd.DataFrame, where: str) -> Any:
    """Returns the task of `_task`; the first document that it cannot be made with is named."""
    try:
        return _task(path, documents, pool)
    except Exception:
        first, last = 0, len(documents)  # it can be made with the first `first` documents, not with the first `last`
        while last - first > 1:
            middle = (first + last) // 2
            try:
                _task(path, documents.head(middle), pool)
                first = middle
            except Exception:
                last = middle
        with _reading(f"Row {first} of {where}", path):
            return _task(path, documents.iloc[[first]], pool)


def _task(path: str, documents: pd.DataFrame, pool: pd.DataFrame) -> Any:
    """Returns lm-eval's task, with the documents in the place of the split that it evaluates on.

    The names of its splits stay: the way it draws few-shot examples depends on them.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    config = copy.deepcopy(definition(path))
    evaluated = config.get("test_split") or config["validation_split"]
    source = config.get("fewshot_split") or config.get("training_split") or evaluated
    rows = {source: pool, evaluated: documents}
    splits = {name: datasets.Dataset.from_pandas(group, preserve_index=False) for name, group in rows.items()}
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: splits})
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return task


def _shots(path: str, pool: pd.DataFrame, shots: int | None) -> int:
    config = definition(path)
    count = (config.get("num_fewshot") or 0) if shots is None else shots
    # Where examples are drawn, one more is needed: lm-eval may draw the document itself and leaves it out then.
    spare = 0 if (config.get("fewshot_config") or {}).get("sampler") == "first_n" else 1
    if count and count + spare > len(pool):
        raise ParameterError("shots", count, f"{config['task']} has {len(pool)} documents to draw examples from")
    return count


def _prompt(task: Any, document: dict[str, Any], shots: int) -> tuple[dict[str, Any], Any]:
    """Returns the entries of the columns for one document, and the right answer."""
    context = task.fewshot_context(document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document))
    if task.OUTPUT_TYPE == "generate_until":
        right = task.doc_to_target(document)
        if isinstance(right, list):
            raise HiesError(f"it has {len(right)} right answers, and one can be compared")
        return {"contexts": [context], "continuations": [f"{task.config.target_delimiter}{right}"]}, str(right)
    requests = task.construct_requests(doc=document, ctx=context)
    contexts, continuations = map(list, zip(*(request.args for request in requests), strict=True))
    options = task.doc_to_choice(document)
    right = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    right = options.index(right) if isinstance(right, str) and right in options else right
    if right not in range(len(options)):  # which may be a text, too
        raise HiesError(f"it has no right answer among its {len(options)} options: {right!r}")
    entries = {
        "contexts": contexts if len(set(contexts)) > 1 else contexts[:1],
        "continuations": continuations,
        "sizes": [len(option) for option in options],
    }
    return entries, right


@contextlib.contextmanager
def _wrapped(network: PreTrainedModel, tokenizer: Any, batch_size: int, precision: str) -> Iterator[Any]:
    """Yields lm-eval's wrapper; it gives the tokenizer a padding token where it has none, hence the copy."""
    from hies.heads.attention import evaluating
    from hies.tasks.prefix_model import PrefixLM

    if tokenizer.eos_token_id is None:
        raise HiesError("The tokenizer has no end-of-text token (eos_token), which lm-eval needs.")
    with _quiet(), evaluating(network):
        try:
            yield PrefixLM(
                pretrained=network,
                backend="causal",
                tokenizer=copy.deepcopy(tokenizer),
                batch_size=batch_size,
                mixed_precision_dtype=None if precision == "float32" else precision,
            )
        except AssertionError as error:
            reason = str(error) or "an option is empty, or longer than what the model reads at a time"
            raise HiesError(f"lm-eval cannot put this task to {type(network).__name__}: {reason}.") from error


def _no_bar() -> bool:
    return not sys.stderr.isatty()  # nobody watches


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what lm-eval says below an error, and the progress bars of datasets."""
    logger = logging.getLogger(PACKAGE)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with no_progress_bars():
            yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _compiled_once() -> Iterator[None]:
    """Compiles each template of a prompt once instead of once a document, which takes 50 times as long."""
    from lm_eval.utils import env

    # lm-eval has no setting for it: its code calls this method of its module's environment for every document.
    env.from_string = functools.lru_cache(TEMPLATES)(env.from_string)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del env.from_string  # the method of its class is seen again
