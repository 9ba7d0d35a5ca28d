"""lm-eval around a network in memory: its task definitions, prompts, log-likelihoods, generation and answer filters.

Only the documents are handed in, so that they may lie anywhere. Prompts, options and few-shot examples are made by
lm-eval's own code from its own YAML files, and its seed, so that the answers are those that its numbers come from. It
is an extra (`pip install 'hies[llm]'`) and is imported when it is needed. Nothing here reaches a network.
"""

import contextlib
import copy
import functools
import importlib.metadata
import importlib.util
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from hies.errors import HiesError
from hies.heads.attention import evaluating

PACKAGE = "lm_eval"
TEMPLATES = 256  # compiled at a time; every task has a few
Columns = dict[str, list[Any]]


def version() -> str:
    """The installed version of lm-eval, which its task definitions belong to.

    Raises:
        HiesError: it is not installed.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise HiesError(
            "Language tasks are put to models by lm-eval, which is not here: pip install 'hies[llm]'."
        ) from None


def is_defined(path: str) -> bool:
    """Whether the installed lm-eval has a task definition of this path, such as `arc/arc_easy.yaml`."""
    return (_definitions() / path).is_file()


@functools.cache
def definition(path: str) -> dict[str, Any]:
    """lm-eval's own definition of a task: what the YAML file `path` under its `tasks` says. Not to be changed."""
    folder = _definitions()
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(folder / path)


def prompts(
    path: str, documents: pd.DataFrame, pool: pd.DataFrame, shots: int | None = None
) -> tuple[Columns, list[Any]]:
    """What lm-eval puts to a model for each document, in order.

    Args:
        path: of the task's definition.
        documents: rows of the data set, as the definition expects them.
        pool: rows that few-shot examples are drawn from, by lm-eval's seed and one document after the other: what the
            first documents get does not depend on how many follow.
        shots: number of few-shot examples; None: as many as the definition says.

    Returns:
        Columns of equal length, and the right answers: the index of an option, or the text that should be generated.
        `contexts`: of each document one text, or one for each option where the options are put into the context
        (WinoGrande). `continuations`: the text after it of each option, with the space that leads it; for a task that
        generates, the right text alone. `sizes`: characters of each option, where lm-eval has `acc_norm`.

    Raises:
        HiesError: the pool is too small; lm-eval is missing.
    """
    columns: Columns = {"contexts": [], "continuations": []}
    columns |= {"sizes": []} if _has_norm(path) else {}
    rights: list[Any] = []
    if len(documents):
        count = _shots(path, pool, shots)
        with _quiet(), _compiled_once():
            task = _task(path, documents, pool if count else documents.head(1))
            for document in task.task_docs:
                found, right = _asked(task, document, count)
                rights.append(right)
                for name, column in columns.items():
                    column.append(found[name])
    return columns, rights


def choose(
    network: PreTrainedModel, tokenizer: Any, columns: Columns, batch_size: int, precision: str = "float32"
) -> dict[str, np.ndarray]:
    """The option that each document's continuation is most likely to be, as lm-eval's `acc` counts.

    Args:
        network: a causal language model, masked or pruned or neither, on any device; its mode stays as it is.
        tokenizer: its tokenizer; stays as it is.
        columns: `contexts`, `continuations` and perhaps `sizes` as `prompts` gives them.
        batch_size: sequences at a time.
        precision: `float32`, or `bfloat16` for matrix products; log-probabilities are in the dtype of the logits, as
            is lm-eval's rule.

    Returns:
        `predictions`, int64 [documents]; with `sizes` also `norm`, the option of the highest log-likelihood divided by
        its characters, as `acc_norm` counts.
    """
    from lm_eval.api.instance import Instance

    asked = [
        [Instance("loglikelihood", {}, (contexts[i % len(contexts)], text), i) for i, text in enumerate(continuations)]
        for contexts, continuations in zip(columns["contexts"], columns["continuations"], strict=True)
    ]
    flat = [request for requests in asked for request in requests]
    with _model(network, tokenizer, batch_size, precision) as model:
        found = iter(model.loglikelihood(flat, disable_tqdm=_hidden()) if flat else [])
    scores = [np.array([next(found)[0] for _ in requests]) for requests in asked]
    answers = {"predictions": scores}
    if "sizes" in columns:
        answers["norm"] = [each / np.array(size, float) for each, size in zip(scores, columns["sizes"], strict=True)]
    return {name: np.array([each.argmax() for each in by], dtype=np.int64) for name, by in answers.items()}


def generate(
    network: PreTrainedModel,
    tokenizer: Any,
    contexts: Sequence[str],
    settings: dict[str, Any],
    batch_size: int,
    precision: str = "float32",
) -> list[str]:
    """What the model writes after each context, greedily and with its key/value cache unless `settings` say otherwise.

    Args:
        network, tokenizer, batch_size, precision: as for `choose`.
        contexts: prompts; cut on the left to what the model reads at a time less what it may write.
        settings: lm-eval's `generation_kwargs`: `until` (texts that end it), `max_gen_toks` (256 if not given), ...

    Raises:
        HiesError: the model reads no more tokens at a time than it is to write.
    """
    from lm_eval.api.instance import Instance

    asked = [Instance("generate_until", {}, (text, copy.deepcopy(settings)), 0) for text in contexts]
    with _model(network, tokenizer, batch_size, precision) as model:
        written = settings.get("max_gen_toks", model.max_gen_toks)
        if written >= model.max_length:
            raise HiesError(
                f"The model reads {model.max_length} tokens at a time, so that it cannot write {written}; "
                "set task.new_tokens to fewer."
            )
        return model.generate_until(asked, disable_tqdm=_hidden()) if asked else []


def extracted(path: str, texts: Sequence[str]) -> dict[str, list[str]]:
    """The answers that the definition's filters find in generated texts, by the name of the filter."""
    from lm_eval.api.instance import Instance
    from lm_eval.filters import build_filter_ensemble

    asked = [Instance("generate_until", {}, (), 0, resps=[text]) for text in texts]
    found: dict[str, list[str]] = {}
    for listed in definition(path)["filter_list"]:
        steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in listed["filter"]]
        if asked:
            build_filter_ensemble(listed["name"], steps).apply(asked)
        found[listed["name"]] = [request.filtered_resps[listed["name"]] for request in asked]
    return found


def normalised(path: str, text: str) -> str:
    """An answer as the definition's `exact_match` compares it: two are the same if they are equal afterwards."""
    rule = next(metric for metric in definition(path)["metric_list"] if metric["metric"] == "exact_match")
    for pattern in rule.get("regexes_to_ignore") or ():
        text = re.sub(pattern, "", text)
    return text.lower() if rule.get("ignore_case") else text


def _definitions() -> Path:
    version()
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def _has_norm(path: str) -> bool:
    return any(metric["metric"] == "acc_norm" for metric in definition(path)["metric_list"])


def _task(path: str, documents: pd.DataFrame, pool: pd.DataFrame) -> Any:
    """lm-eval's task, with the documents in the place of the split that it evaluates on.

    The names of its splits stay: the way it draws few-shot examples depends on them.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    config = copy.deepcopy(definition(path))
    evaluated = config.get("test_split") or config["validation_split"]
    source = config.get("fewshot_split") or config["training_split"]
    splits = {evaluated: _dataset(documents), source: _dataset(pool)}
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: splits})
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return task


def _dataset(rows: pd.DataFrame) -> datasets.Dataset:
    return datasets.Dataset.from_pandas(rows, preserve_index=False)


def _shots(path: str, pool: pd.DataFrame, shots: int | None) -> int:
    config = definition(path)
    count = (config.get("num_fewshot") or 0) if shots is None else shots
    # Where examples are drawn, one more is needed: lm-eval may draw the document itself and leaves it out then.
    spare = 0 if (config.get("fewshot_config") or {}).get("sampler") == "first_n" else 1
    if count and count + spare > len(pool):
        raise HiesError(f"task.shots is {count}, but {config['task']} has {len(pool)} documents to draw examples from.")
    return count


def _asked(task: Any, document: dict[str, Any], shots: int) -> tuple[dict[str, Any], Any]:
    """Of one document the entries of the columns, and the right answer."""
    context = task.fewshot_context(document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document))
    if task.OUTPUT_TYPE == "generate_until":
        right = task.doc_to_target(document)
        return {"contexts": [context], "continuations": [task.config.target_delimiter + right]}, right
    requests = task.construct_requests(doc=document, ctx=context)
    contexts, continuations = map(list, zip(*(request.args for request in requests), strict=True))
    options = task.doc_to_choice(document)
    right = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    if not 0 <= right < len(options):
        raise HiesError(f"A document of {task.config.task} has no right answer among its {len(options)} options.")
    found = {
        "contexts": contexts if len(set(contexts)) > 1 else contexts[:1],
        "continuations": continuations,
        "sizes": [len(option) for option in options],
    }
    return found, right


@contextlib.contextmanager
def _model(network: PreTrainedModel, tokenizer: Any, batch_size: int, precision: str) -> Iterator[Any]:
    """lm-eval's wrapper; it gives the tokenizer a padding token where it has none, hence the copy."""
    from lm_eval.models.huggingface import HFLM

    if tokenizer.eos_token_id is None:
        raise HiesError("The tokenizer has no end-of-text token (eos_token), which lm-eval needs.")
    with _quiet(), evaluating(network):
        try:
            yield HFLM(
                pretrained=network,
                backend="causal",
                tokenizer=copy.deepcopy(tokenizer),
                batch_size=batch_size,
                mixed_precision_dtype=None if precision == "float32" else precision,
            )
        except AssertionError as error:
            why = str(error) or "an option is empty, or longer than what the model reads at a time"
            raise HiesError(f"lm-eval cannot put this task to {type(network).__name__}: {why}.") from error


def _hidden() -> bool:
    """Whether progress bars stay away: nobody watches."""
    return not sys.stderr.isatty()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No word of lm-eval's below an error, and no bar of datasets'."""
    logger, shown = logging.getLogger(PACKAGE), datasets.utils.logging.is_progress_bar_enabled()
    before = logger.level
    logger.setLevel(logging.ERROR)
    datasets.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(before)
        if shown:
            datasets.utils.logging.enable_progress_bar()


@contextlib.contextmanager
def _compiled_once() -> Iterator[None]:
    """Compile each template of a prompt once instead of once a document, which takes 50 times as long."""
    from lm_eval.utils import env

    env.from_string = functools.lru_cache(TEMPLATES)(env.from_string)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del env.from_string  # the method of its class is seen again
