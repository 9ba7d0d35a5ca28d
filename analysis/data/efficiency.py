"""Measured efficiency: rows of another kind than those of jobs, one file a model in a folder of their own."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from hies.runs.folders import EFFICIENCY, warn_of_rows

NEEDS = "measurements, which `make efficiency` makes"
MEASUREMENT_SCHEMA = 1
# What is compared with the dense model, as people write it.
COSTS = {
    "flops": "FLOPs",
    "latency": "latency",
    "parameters": "parameters",
    "peak_bytes": "peak memory",
    "cache_bytes": "key/value cache",
}
MEASURED_ON = ("model", "architecture", "device")
ENDS = ("latency_low", "latency_high")  # quartiles over rounds
MEASURED_NUMBERS = ("ratio", "batch", "tokens", "threads", "rounds", "heads_total", "heads_removed", "seconds", *ENDS)
MAY_BE_NULL = ("cache_bytes",)  # null where a model keeps none
# The paper's appendix E.1, TinyBERT: heads removed -> FLOPs in percent of the dense model; "about", says the text.
PAPER_FLOPS = {0.1: 96.0, 0.5: 80.0}


def load(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """Returns the measurements in `results_dir`/efficiency, a line for each model and ratio, in a fixed order.

    Columns beyond the row's keys: `<measure>_percent` of the dense model for COSTS and ENDS. A file that cannot be
    read is left out with a RowsWarning. Of `experiment`, only None and `efficiency` have any.
    """
    columns = [*MEASURED_ON, *MEASURED_NUMBERS, *COSTS, *(f"{name}_percent" for name in (*COSTS, *ENDS))]
    frames = []
    paths = (Path(results_dir) / EFFICIENCY).glob("[!.]*.jsonl") if experiment in (None, EFFICIENCY) else ()
    for path in sorted(paths):
        try:
            frames.append(_relative(_read(path)))
        except (ValueError, KeyError, TypeError):
            warn_of_rows(f"{path} holds no measurements that can be read and is left out.")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _read(path: Path) -> pd.DataFrame:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows or rows[0]["ratio"] != 0 or any(not _is_whole(row) for row in rows):
        raise ValueError("not the rows of one model, dense first")
    return pd.DataFrame(rows).sort_values("ratio", kind="stable", ignore_index=True)


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether a row has what is drawn, of the right type."""
    texts = all(isinstance(row[key], str) for key in MEASURED_ON)
    numbers = all(
        type(row[key]) in (int, float) or (row[key] is None and key in MAY_BE_NULL)
        for key in (*MEASURED_NUMBERS, *COSTS)
    )
    return row["schema"] == MEASUREMENT_SCHEMA and texts and numbers


def _relative(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one model with percentages; latency is relative already, to the dense model within a round."""
    rows = rows.astype(dict.fromkeys((*COSTS, *ENDS), float))
    for name in (*COSTS, *ENDS):
        dense = 1.0 if name.startswith("latency") else rows[name].iloc[0]
        rows[f"{name}_percent"] = 100 * rows[name] / dense
    return rows
