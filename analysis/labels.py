"""The name of a curve: criterion and knobs in words, so that runs which differ in a knob are never averaged."""

import json
from collections.abc import Hashable, Iterable
from typing import Any

import pandas as pd

CRITERIA = {"hies": "HIES", "his": "HIS", "ae": "AE", "ad": "AD", "l2": "L2", "random": "Random",
            "output_norm": "Output norm", "fisher": "Fisher", "greedy": "Greedy", "slicegpt": "SliceGPT",
            "llm_pruner_block": "LLM-Pruner (Block)", "llm_pruner_channel": "LLM-Pruner (Channel)"}  # fmt: skip
# Tasks as people write them, by what they are about, each kind in the paper's order; GLUE is what tables 1, 2, 7, 9 and
# 11 have a place for.
GLUE = {"sst2": "SST-2", "cola": "CoLA", "mrpc": "MRPC", "qqp": "QQP", "stsb": "STS-B", "qnli": "QNLI",
        "mnli": "MNLI", "rte": "RTE"}  # fmt: skip
LANGUAGE = {"hellaswag": "HellaSwag", "winogrande": "WinoGrande", "arc_easy": "ARC-e", "arc_challenge": "ARC-c",
            "openbookqa": "OBQA", "piqa": "PIQA", "docs": "Docs"}  # fmt: skip
REASONING = {"gsm8k": "GSM8K", "mmlu": "MMLU"}
VISION = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "food101": "Food-101", "fashion_mnist": "Fashion-MNIST",
          "imagenet1k": "ImageNet-1k"}  # fmt: skip
VISION_LANGUAGE = {"vizwiz": "VizWiz", "mmvet": "MM-Vet", "digit_questions": "Digit questions"}
TASKS = {**GLUE, **LANGUAGE, **REASONING, **VISION, **VISION_LANGUAGE}
DEFAULTS = {"normalize": "global", "scope": "global", "schedule": "oneshot", "min_heads_per_layer": 0,
            "reduction": "example", "reduction_batch": 32, "entropy": "shannon", "combination": "sum"}  # fmt: skip
# The same of criteria whose knobs have names and defaults of their own.
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "llm_pruner_block": {"taylor": "first", "reduction": "sum", "local": True, "keep_last": 1},
    "llm_pruner_channel": {"taylor": "first", "reduction": "sum"},
    "slicegpt": {"damping": 0.01, "tune_epochs": 2, "tune_learning_rate": 1e-3, "tune_rank": 16,
                 "tune_examples": 6000, "tune_batch_size": 32},
}  # fmt: skip
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
SYMBOLS = {"alpha": ALPHA, "min_heads_per_layer": "min heads", "reduction_batch": "batch size"}
# An alpha that a job chose instead of being told, by the word of its protocol.
CHOSEN = {
    "per_ratio": f"{ALPHA} per ratio",
    "per_task": f"{ALPHA}* per task",
    "auto": f"{ALPHA} auto",
    "per_ratio_on_report": f"{ALPHA} per ratio, chosen on the report split",
    "per_task_on_report": f"{ALPHA}* per task, chosen on the report split",
}
# The values of a knob that need no name of the knob beside them.
WORDS: dict[str, dict[Any, str]] = {
    "alpha": CHOSEN,
    "reduction": {"batch": "per batch", "batch_l2": "per batch, layer L2", "token": "per token"},
    "entropy": {"gini": "Gini-Simpson", "min": "min-entropy", "support": "effective support"},
    "combination": {"product": "product", "printed": "as D.8 prints it"},
    "importance": {"output_norm": "of the output norm"},
    "tune": {True: "w/ tune", False: "w/o tune"},
}
WITH_ORDER = {"renyi": "Renyi", "tsallis": "Tsallis"}  # entropies that are said with their order
SETTING = ["experiment", "model", "task"]
# Named only where a setting holds several of them, because they rarely differ.
PROTOCOL = {
    "split": "{} split",
    "calibration_size": "calibration size {}",
    "examples": "{} examples",
    "checkpoint": "checkpoint {}",
    "data": "data {}",
}
TUNING = {
    "alphas": f"{ALPHA} from {{}}",
    "tuning_seeds": "{} tuning seeds",
    "tuning_examples": "{} tuning examples",
}  # of a chosen alpha alone


def criterion_name(criterion: str) -> str:
    """The criterion as people write it."""
    return CRITERIA.get(criterion, criterion)


def task_name(task: str) -> str:
    """The task as people write it."""
    return TASKS.get(task, task)


def ordered_tasks(tasks: pd.Series) -> list[str]:
    """The different tasks, those of the paper first and in its order."""
    order = list(TASKS)
    return sorted(tasks.unique(), key=lambda task: (order.index(task) if task in order else len(order), task))


def named_tasks(tasks: Iterable[str]) -> str:
    """The tasks as a sentence lists them: A, B or C."""
    *others, last = map(task_name, tasks)
    return f"{', '.join(others)} or {last}" if others else last


def label(criterion: str, knobs: dict[str, Any]) -> str:
    """For example `HIES (alpha = 0.5, scope = layer)`, alpha as a Greek letter; other knobs only off their default."""
    defaults = {**DEFAULTS, **OWN_DEFAULTS.get(criterion, {})}
    told = {name: value for name, value in knobs.items() if not pd.isna(value) and defaults.get(name) != value}
    ordered = WITH_ORDER.get(told.get("entropy", "")) if "order" in told else None
    names = sorted(told, key=lambda name: (name != "alpha", name))
    parts = [_part(name, told[name]) for name in names if not (ordered and name in ("entropy", "order"))]
    parts += [f"{ordered} {_text(told['order'])}"] if ordered else []
    return criterion_name(criterion) + (f" ({', '.join(parts)})" if parts else "")


def add_labels(rows: pd.DataFrame, knobs: list[str]) -> pd.DataFrame:
    """The rows with a column `curve`, which names criterion, knobs and whatever else sets rows apart."""
    rows = rows.copy()
    for knob in knobs:
        if rows[knob].dtype == object:
            rows[knob] = rows[knob].map(_hashable)
    tuning = {name: words for name, words in TUNING.items() if name in rows and "alpha" in rows}
    protocol = {**PROTOCOL, **tuning}
    named = [knob for knob in knobs if knob not in tuning]
    # What names a curve is the same in all rows of a run, and there are many more rows than curves.
    kind = rows.groupby([*SETTING, "criterion", *named, *protocol], dropna=False, sort=False).ngroup()
    kinds = rows[~kind.duplicated()]
    several = {column: _several(kinds, column) for column in protocol}
    names = []
    for place, row in enumerate(kinds.to_dict("records")):
        extra = [_extra(words, row[column]) for column, words in protocol.items() if several[column][place]]
        names.append(", ".join([label(row["criterion"], {knob: row[knob] for knob in named}), *extra]))
    return rows.assign(curve=kind.map(dict(enumerate(names))))


def ordered_curves(rows: pd.DataFrame) -> list[str]:
    """The curves of these rows, HIES first, then as in CRITERIA; within a criterion by alpha (words first) and size."""
    criteria, words = list(CRITERIA), list(CHOSEN)
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


def _part(name: str, value: Any) -> str:
    words = WORDS.get(name, {})
    return words[value] if value in words else f"{SYMBOLS.get(name, name)} = {_text(value)}"


def _several(kinds: pd.DataFrame, column: str) -> list[bool]:
    """For each row: whether its setting holds several values; a tuning knob counts within each way to choose alpha."""
    counted, within = pd.Series(True, index=kinds.index), SETTING
    if column in TUNING:
        counted, within = kinds["alpha"].map(lambda alpha: isinstance(alpha, str)), [*SETTING, "alpha"]
    values = kinds[counted].groupby(within)[column].transform("nunique", dropna=False)
    return values.reindex(kinds.index, fill_value=0).gt(1).tolist()


def _extra(words: str, value: Any) -> str:
    return words.format("all" if pd.isna(value) else _text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"


def _hashable(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value
