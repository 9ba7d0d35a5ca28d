"""The name of a curve: criterion and knobs in words, so that runs which differ in a knob are never averaged."""

import hashlib
import json
import re
from collections.abc import Hashable, Iterable
from functools import partial
from typing import Any

import pandas as pd

from hies.errors import printable

CRITERION_NAMES = {"hies": "HIES", "his": "HIS", "ae": "AE", "ad": "AD", "l2": "L2", "random": "Random",
            "output_norm": "Output norm", "fisher": "Fisher", "flap": "FLAP", "greedy": "Greedy",
            "slicegpt": "SliceGPT", "llm_pruner_block": "LLM-Pruner (Block)",
            "llm_pruner_channel": "LLM-Pruner (Channel)"}  # fmt: skip
# Tasks as people write them, by what they are about, each kind in the paper's order. The paper's tables 1, 2, 7, 9 and
# 11 have a place for those of GLUE.
GLUE_NAMES = {"sst2": "SST-2", "cola": "CoLA", "mrpc": "MRPC", "qqp": "QQP", "stsb": "STS-B", "qnli": "QNLI",
              "mnli": "MNLI", "rte": "RTE"}  # fmt: skip
LANGUAGE_NAMES = {"hellaswag": "HellaSwag", "winogrande": "WinoGrande", "arc_easy": "ARC-e", "arc_challenge": "ARC-c",
                  "openbookqa": "OBQA", "piqa": "PIQA", "docs": "Docs"}  # fmt: skip
REASONING_NAMES = {"gsm8k": "GSM8K", "mmlu": "MMLU"}
VISION_NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "food101": "Food-101", "fashion_mnist": "Fashion-MNIST",
                "imagenet1k": "ImageNet-1k", "digits": "Digits"}  # fmt: skip
QUESTION_NAMES = {"vizwiz": "VizWiz", "mmvet": "MM-Vet", "digit_questions": "Digit questions"}
SMALL_NAMES = {"apidocs": "API docs", "digits": "Digits"}
TASK_NAMES = {**GLUE_NAMES, **LANGUAGE_NAMES, **REASONING_NAMES, **VISION_NAMES, **QUESTION_NAMES, **SMALL_NAMES}
METRIC_NAMES = {
    "acc_norm": "acc_norm",
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
}
MODEL_NAMES = {"minilm": "MiniLM", "bert_base": "BERT-base", "tinybert": "TinyBERT", "mpnet_base": "MPNet-base",
               "smollm2": "SmolLM2-135M", "llama2_7b": "LLaMA-2-7B", "llama_tiny": "LLaMA (small)", "llama": "LLaMA",
               "vit_large": "ViT-Large", "vit_small": "ViT (small)", "vit_tiny": "ViT (tiny)", "vit": "ViT",
               "llava_1_5_7b": "LLaVA-1.5-7B", "llava_tiny": "LLaVA (small)"}  # fmt: skip
KNOB_DEFAULTS = {"normalize": "global", "scope": "global", "schedule": "oneshot", "min_heads_per_layer": 0,
                 "reduction": "example", "reduction_batch": 32, "entropy": "shannon",
                 "combination": "sum", "prior_examples": 1, "placebo": "none", "calibration_examples": "train",
                 "calibration_labels": "data"}  # fmt: skip
# Of criteria whose knobs have names and defaults of their own.
DEFAULTS_OF: dict[str, dict[str, Any]] = {
    "llm_pruner_block": {"taylor": "first", "reduction": "sum", "local": True, "keep_last": 1},
    "llm_pruner_channel": {"taylor": "first", "reduction": "sum"},
    "flap": {"standardize": True},
    "slicegpt": {"damping": 0.01, "tune_epochs": 2, "tune_learning_rate": 1e-3, "tune_rank": 16,
                 "tune_examples": 6000, "tune_batch_size": 32},
}  # fmt: skip
ALPHA_SIGN = "\N{GREEK SMALL LETTER ALPHA}"
SYMBOLS = {
    "alpha": ALPHA_SIGN,
    "min_heads_per_layer": "min heads",
    "reduction_batch": "batch size",
    "prior_examples": "k",
    "calibration_examples": "texts",
    "criterion_seed": "criterion seed",
}
# An alpha that a job chose, by the word of its protocol.
CHOSEN = {
    "per_ratio": f"{ALPHA_SIGN} per ratio",
    "per_task": f"{ALPHA_SIGN}* per task",
    "auto": f"{ALPHA_SIGN} auto",
    "shrink": f"{ALPHA_SIGN} = n / (n + k)",
    "per_ratio_on_report": f"{ALPHA_SIGN} per ratio, chosen on the report split",
    "per_task_on_report": f"{ALPHA_SIGN}* per task, chosen on the report split",
}
# The values of a knob that need no name of the knob beside them.
VALUE_WORDS: dict[str, dict[Any, str]] = {
    "alpha": CHOSEN,
    "reduction": {"batch": "per batch", "batch_l2": "per batch, layer L2", "token": "per token"},
    "entropy": {"gini": "Gini-Simpson", "min": "min-entropy", "support": "effective support"},
    "combination": {"product": "product", "printed": "as D.8 prints it"},
    "importance": {"output_norm": "of the output norm"},
    "normalize": {"layer_entropy": "AE on its layer's scale"},
    "placebo": {"permuted": "AE of other heads", "random": "random numbers for AE"},
    "calibration_examples": {"selection": "unseen examples", "words": "random words"},
    "calibration_labels": {"model": "the model's labels"},
    "tune": {True: "w/ tune", False: "w/o tune"},
    "plain": {True: "plain"},
}
WITH_ORDER = {"renyi": "Renyi", "tsallis": "Tsallis"}  # entropies that are said with their order
SETTING = ["experiment", "model", "task"]
UNPRUNED, OF_PAPER = "unpruned", ", paper"  # in legends: the dense model, and the end of the names of paper's numbers
RUNS = "runs alike"  # a column: how many there are
LONGEST_CURVE = 200  # characters of the name of a curve, for which a figure makes room
# Named only where a setting holds several of them, because they rarely differ, and not for the value that most of its
# runs have: a stray run must not rename the others, whose curves have the same names on other tasks. What is not
# OF_A_TASK counts over all tasks of a model: tasks that differ in it are no draws of one mean.
PROTOCOL_WORDS = {
    "split": "{} split",
    "calibration_size": "calibration size {}",
    "examples": "{} examples",
    "precision": "{} precision",
    "checkpoint": "checkpoint {}",
    "data": "data {}",
    "source": "code {}",
}
TUNING_WORDS = {
    "alphas": f"{ALPHA_SIGN} from {{}}",
    "tuning_seeds": "{} tuning seeds",
    "tuning_examples": "{} tuning examples",
}  # of a chosen alpha alone
# What a task has of its own: how many examples there are, what was fine-tuned on it, and the sites of what is scored.
OF_A_TASK = ("examples", "checkpoint", "data", "sites", "tuning_examples")


def criterion_name(criterion: str) -> str:
    """Returns the criterion as people write it."""
    return CRITERION_NAMES.get(criterion, criterion)


def task_name(task: str) -> str:
    """Returns the task as people write it."""
    return TASK_NAMES.get(task, task)


def model_name(model: str) -> str:
    """Returns the model as people write it."""
    return MODEL_NAMES.get(model, model)


def metric_name(metric: str) -> str:
    """Returns the metric as people write it."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def ordered_tasks(tasks: Iterable[str]) -> list[str]:
    """Returns the different tasks, those of the paper first and in its order."""
    order = list(TASK_NAMES)
    return sorted(set(tasks), key=lambda task: (order.index(task) if task in order else len(order), task))


def listed_tasks(tasks: Iterable[str]) -> str:
    """Returns the different tasks as people write them, in order: A, B, C."""
    return ", ".join(map(task_name, ordered_tasks(tasks)))


def named_tasks(tasks: Iterable[str]) -> str:
    """Returns the tasks as a sentence lists them: A, B or C."""
    *first, last = map(task_name, tasks)
    return f"{', '.join(first)} or {last}" if first else last


def label(criterion: str, knobs: dict[str, Any]) -> str:
    """Returns for example `HIES (alpha = 0.5, scope = layer)`, alpha in Greek; other knobs only off their default."""
    defaults = {**KNOB_DEFAULTS, **DEFAULTS_OF.get(criterion, {})}
    named = {name: value for name, value in knobs.items() if not pd.isna(value) and defaults.get(name) != value}
    ordered = WITH_ORDER.get(named.get("entropy", "")) if "order" in named else None
    names = sorted(named, key=lambda name: (name != "alpha", name))
    parts = [_part(name, named[name]) for name in names if not (ordered and name in ("entropy", "order"))]
    parts += [f"{ordered} {_text(named['order'])}"] if ordered else []
    return criterion_name(criterion) + (f" ({', '.join(parts)})" if parts else "")


def add_labels(rows: pd.DataFrame, knobs: list[str]) -> pd.DataFrame:
    """Returns the rows with a column `curve`, which names criterion, knobs and whatever else sets rows apart."""
    rows = rows.copy()
    for knob in knobs:
        if rows[knob].dtype == object:
            nested = rows[knob].map(lambda value: isinstance(value, list | dict))
            rows.loc[nested, knob] = rows.loc[nested, knob].map(partial(json.dumps, sort_keys=True))
    tuning = TUNING_WORDS if "alpha" in rows else {}
    protocol = {name: words for name, words in {**PROTOCOL_WORDS, **tuning}.items() if name in rows}
    named = [knob for knob in knobs if knob not in tuning]
    # What names a curve is the same in all rows of a run, and there are many more rows than curves.
    kind = rows.groupby([*SETTING, "criterion", *named, *protocol], dropna=False, sort=False).ngroup()
    kinds = rows[~kind.duplicated()].assign(**{RUNS: kind.value_counts().sort_index().to_numpy()})
    unusual = {column: _unusual(kinds, column) for column in protocol}
    names = []
    for place, row in enumerate(kinds.to_dict("records")):
        extra = [words.format(_text(row[column])) for column, words in protocol.items() if unusual[column][place]]
        name = ", ".join([label(row["criterion"], {knob: row[knob] for knob in named}), *extra])
        names.append(in_short(name, LONGEST_CURVE))
    return rows.assign(curve=kind.map(dict(enumerate(names))))


def without_word(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Returns the rows with curves that go by the same name whatever they have in a column of PROTOCOL_WORDS."""
    words = rows[column].map(lambda value: f", {PROTOCOL_WORDS[column].format(_text(value))}")
    return rows.assign(curve=[curve.replace(word, "") for curve, word in zip(rows["curve"], words, strict=True)])


def in_short(name: str, longest: int) -> str:
    """Returns a name that can be shown, at most `longest` characters; of one that is changed for it the digest too."""
    if len(name) <= longest and name.isprintable():
        return name
    number = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{printable(name[: longest - 11])}...{number}"


def ordered_curves(rows: pd.DataFrame) -> list[str]:
    """Returns the curves in the order of CRITERION_NAMES; within a criterion by alpha (words first) and size."""
    criteria, words = list(CRITERION_NAMES), list(CHOSEN)
    first = rows.drop_duplicates("curve").to_dict("records")

    def place(row: dict[Hashable, Any]) -> tuple[int, str, int, float, int, str]:
        criterion: str = row["criterion"]
        alpha: Any = row.get("alpha")
        rank = criteria.index(criterion) if criterion in criteria else len(criteria)
        word, number = len(words) + 1, -1.0 if pd.isna(alpha) or isinstance(alpha, str) else float(alpha)
        if isinstance(alpha, str):
            word = words.index(alpha) if alpha in words else len(words)
        return rank, criterion, word, number, row.get("calibration_size", 0), row["curve"]

    return [row["curve"] for row in sorted(first, key=place)]


def without_shared(names: list[str]) -> tuple[list[str], list[str]]:
    """Returns the names of curves without the parts that all of them have, and these parts.

    What is no curve (`unpruned`, or the paper's number) has no part in it.
    """
    curves = [name for name in names if name != UNPRUNED and not name.endswith(OF_PAPER)]
    parts = [re.split(r" \(|\), |, |\)$", name)[1:] for name in curves]
    shared = [part for part in parts[0] if part and all(part in other for other in parts)] if len(parts) > 1 else []
    for part in map(re.escape, shared):
        names = [re.sub(rf"(?<=\(){part}, | \({part}\)|, {part}(?=[,)]|$)", "", name) for name in names]
    return names, shared


def in_order(frame: pd.DataFrame, rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns the lines of a frame sorted by these columns, its curves and tasks in the order of those of `rows`."""
    order = {name: place for place, name in enumerate([*ordered_tasks(rows["task"]), *ordered_curves(rows)])}
    return frame.sort_values(by, key=lambda column: column.map(order) if column.name in ("task", "curve") else column)


def _part(name: str, value: Any) -> str:
    words = VALUE_WORDS.get(name, {})
    return words[value] if value in words else f"{SYMBOLS.get(name, name)} = {_text(value)}"


def _unusual(kinds: pd.DataFrame, column: str) -> list[bool]:
    """For each row: whether most runs of its setting, or of all tasks of its model, have another value.

    A tuning knob counts within each way to choose alpha, code from outside within each criterion that has any.
    """
    counted, within = kinds, [name for name in SETTING if name != "task" or column in OF_A_TASK]
    if column == "source":
        counted, within = kinds[kinds[column].notna()], [*within, "criterion"]
    if column in TUNING_WORDS:
        counted, within = kinds[kinds["alpha"].map(lambda alpha: isinstance(alpha, str))], [*within, "alpha"]
    settings = counted.groupby(within)
    alike = counted.groupby([*within, column], dropna=False)[RUNS].transform("sum")
    unusual = (settings[column].transform("nunique", dropna=False) > 1) & (2 * alike <= settings[RUNS].transform("sum"))
    return unusual.reindex(kinds.index, fill_value=False).tolist()


def _text(value: Any) -> str:
    if pd.isna(value):  # of a protocol that limits nothing
        return "all"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"
