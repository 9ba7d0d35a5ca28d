"""Measured efficiency: rows of another kind than those of jobs, one file a model in a folder of their own."""

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from hies.errors import RowsWarning
from hies.runs.folders import EFFICIENCY

NEEDS = "measurements, which `make efficiency` makes"
SCHEMA = 1
# What is compared with the dense model, as people write it.
MEASURES = {
    "flops": "FLOPs",
    "latency": "latency",
    "parameters": "parameters",
    "peak_bytes": "peak memory",
    "cache_bytes": "key/value cache",
}
ENDS = ("latency_low", "latency_high")  # quartiles over rounds
TEXTS = ("model", "architecture", "device")
NUMBERS = ("ratio", "batch", "tokens", "threads", "rounds", "heads_total", "heads_removed", "seconds", *ENDS)
MISSING = ("cache_bytes",)  # null where a model keeps none
# The paper's appendix E.1, TinyBERT: heads removed -> FLOPs in percent of the dense model; "about", says the text.
PAPER = {0.1: 96.0, 0.5: 80.0}


def load(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """The measurements in `results_dir`/efficiency, a line for each model and ratio, in a fixed order.

    Columns beyond the row's keys: `<measure>_percent` of the dense model for MEASURES and ENDS. A file that cannot be
    read is left out with a RowsWarning. experiment: if given, only `efficiency` has any.
    """
    columns = [*TEXTS, *NUMBERS, *MEASURES, *(f"{name}_percent" for name in (*MEASURES, *ENDS))]
    frames = []
    for path in (
        sorted((Path(results_dir) / EFFICIENCY).glob("[!.]*.jsonl")) if experiment in (None, EFFICIENCY) else ()
    ):
        try:
            frames.append(_relative(_read(path)))
        except (ValueError, KeyError, TypeError):
            warnings.warn(f"{path} holds no measurements that can be read and is left out.", RowsWarning, stacklevel=2)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _read(path: Path) -> pd.DataFrame:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows or rows[0]["ratio"] != 0 or any(not _is_whole(row) for row in rows):
        raise ValueError("not the rows of one model, dense first")
    return pd.DataFrame(rows).sort_values("ratio", kind="stable", ignore_index=True)


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether a row has what is drawn, of the right type."""
    texts = all(isinstance(row[key], str) for key in TEXTS)
    numbers = all(_is_number(row[key]) or (row[key] is None and key in MISSING) for key in (*NUMBERS, *MEASURES))
    return row["schema"] == SCHEMA and texts and numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _relative(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one model with percentages; latency is relative already, to the dense model within a round."""
    rows = rows.astype(dict.fromkeys((*MEASURES, *ENDS), float))
    for name in (*MEASURES, *ENDS):
        dense = 1.0 if name.startswith("latency") else rows[name].iloc[0]
        rows[f"{name}_percent"] = 100 * rows[name] / dense
    return rows
