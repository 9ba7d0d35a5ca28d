"""Measured costs: rows of another kind than those of jobs, one file a model in folders of their own."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from hies.runs.folders import EFFICIENCY, SCORING, warn_of_rows

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
SCORING_NEEDS = "times of scoring, which `make benchmark` takes"
SCORED_ON = ("model", "device", "way")
SCORED_NUMBERS = ("threads", "load", "cores", "texts", "tokens", "rounds", "seconds", "training_steps", "passes",
                  "passes_low", "passes_high")  # fmt: skip
MAY_BE_NULL = ("cache_bytes",)  # null where a model keeps none
# The paper's appendix E.1, TinyBERT: heads removed -> FLOPs in percent of the dense model; "about", says the text.
PAPER_FLOPS = {0.1: 96.0, 0.5: 80.0}
OF_TINYBERT = "FLOPs, the paper's TinyBERT"  # what a column and a curve of them are called


def load(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """Returns the measurements in `results_dir`/efficiency, a line for each model and ratio, in a fixed order.

    Columns beyond the row's keys: `<measure>_percent` of the dense model for COSTS and ENDS. A file that cannot be
    read is left out with a RowsWarning. Of `experiment`, only None and `efficiency` have any.
    """
    columns = [*MEASURED_ON, *MEASURED_NUMBERS, *COSTS, *(f"{name}_percent" for name in (*COSTS, *ENDS))]
    return _files(Path(results_dir) / EFFICIENCY, experiment, _measured, columns)


def load_scoring(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """Returns the times of scoring in `results_dir`/scoring, a line for each model and way; otherwise as `load`."""
    return _files(Path(results_dir) / SCORING, experiment, _scored, [*SCORED_ON, *SCORED_NUMBERS])


def _files(
    folder: Path, experiment: str | None, read: Callable[[list[Any]], pd.DataFrame], columns: list[str]
) -> pd.DataFrame:
    """What the files of a folder hold; `read` raises a ValueError, KeyError or TypeError for rows that it cannot."""
    frames = []
    paths = folder.glob("[!.]*.jsonl") if experiment in (None, folder.name) else ()
    for path in sorted(paths):
        try:
            frames.append(read([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]))
        except (ValueError, KeyError, TypeError):
            warn_of_rows(f"{path} holds no measurements that can be read and is left out.")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _measured(rows: list[Any]) -> pd.DataFrame:
    numbers = (*MEASURED_NUMBERS, *COSTS)
    if not rows or rows[0]["ratio"] != 0 or any(not _is_whole(row, MEASURED_ON, numbers) for row in rows):
        raise ValueError("not the rows of one model, dense first")
    return _relative(pd.DataFrame(rows).sort_values("ratio", kind="stable", ignore_index=True))


def _scored(rows: list[Any]) -> pd.DataFrame:
    if not rows or any(not _is_whole(row, SCORED_ON, SCORED_NUMBERS) for row in rows):
        raise ValueError("not the times of one model")
    return pd.DataFrame(rows)


def _is_whole(row: dict[str, Any], texts: Iterable[str], numbers: Iterable[str]) -> bool:
    """Whether a row has what is shown, of the right type."""
    right = all(isinstance(row[key], str) for key in texts)
    known = all(type(row[key]) in (int, float) or (row[key] is None and key in MAY_BE_NULL) for key in numbers)
    return row["schema"] == MEASUREMENT_SCHEMA and right and known


def _relative(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one model with percentages; latency is relative already, to the dense model within a round."""
    rows = rows.astype(dict.fromkeys((*COSTS, *ENDS), float))
    for name in (*COSTS, *ENDS):
        dense = 1.0 if name.startswith("latency") else rows[name].iloc[0]
        rows[f"{name}_percent"] = 100 * rows[name] / dense
    return rows
