"""The name of a curve: criterion and knobs in words, so that runs which differ in a knob are never averaged."""

import json
from collections.abc import Hashable
from typing import Any

import pandas as pd

CRITERIA = {"hies": "HIES", "his": "HIS", "ae": "AE", "ad": "AD", "l2": "L2", "random": "Random"}
DEFAULTS = {"normalize": "global", "scope": "global", "schedule": "oneshot", "min_heads_per_layer": 0}
SYMBOLS = {"alpha": "\N{GREEK SMALL LETTER ALPHA}", "min_heads_per_layer": "min heads"}
SETTING = ["experiment", "model", "task"]
# Named only where a setting holds several of them, because they rarely differ.
PROTOCOL = {"split": "{} split", "calibration_size": "calibration size {}", "examples": "{} examples"}


def criterion_name(criterion: str) -> str:
    """The criterion as people write it."""
    return CRITERIA.get(criterion, criterion)


def label(criterion: str, knobs: dict[str, Any]) -> str:
    """For example `HIES (alpha = 0.5, scope = layer)`, alpha as a Greek letter; other knobs only off their default."""
    names = sorted(knobs, key=lambda name: (name != "alpha", name))
    parts = [f"{SYMBOLS.get(name, name)} = {_text(knobs[name])}" for name in names if _is_told(name, knobs[name])]
    return criterion_name(criterion) + (f" ({', '.join(parts)})" if parts else "")


def add_labels(rows: pd.DataFrame, knobs: list[str]) -> pd.DataFrame:
    """The rows with a column `curve`, which names criterion, knobs and whatever else sets rows apart."""
    rows = rows.copy()
    for knob in knobs:
        rows[knob] = rows[knob].map(_hashable)
    several = {column: rows.groupby(SETTING)[column].transform("nunique") > 1 for column in PROTOCOL}
    names = []
    for i, row in enumerate(rows.to_dict("records")):
        extra = [words.format(row[column]) for column, words in PROTOCOL.items() if several[column].iloc[i]]
        names.append(", ".join([label(row["criterion"], {knob: row[knob] for knob in knobs}), *extra]))
    return rows.assign(curve=names)


def ordered_curves(rows: pd.DataFrame) -> list[str]:
    """The curves of these rows, HIES first, then as in CRITERIA; within a criterion by alpha and name."""
    order = list(CRITERIA)
    first = rows.drop_duplicates("curve").to_dict("records")

    def place(row: dict[Hashable, Any]) -> tuple[int, str, float, str]:
        criterion = row["criterion"]
        rank = order.index(criterion) if criterion in order else len(order)
        alpha: Any = row.get("alpha", -1.0)
        return rank, criterion, -1.0 if pd.isna(alpha) else float(alpha), row["curve"]

    return [row["curve"] for row in sorted(first, key=place)]


def _is_told(name: str, value: Any) -> bool:
    return not pd.isna(value) and DEFAULTS.get(name) != value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _hashable(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value
