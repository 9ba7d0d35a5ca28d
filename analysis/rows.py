"""Row files -> one tidy frame: one line per evaluated ratio, with the name of its curve."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import grid, runs
from analysis.errors import RowsWarning
from analysis.labels import SETTING, add_labels

SCHEMA = 1
NUMBERS = ("seed", "calibration_size", "ratio", "heads_total", "heads_removed", "examples")
MEASURES = ("value", "quality", "stability")  # numbers, or null where the metric is undefined
TEXTS = ("run_id", "experiment", "model", "task", "split", "criterion", "scope", "schedule", "metric", "command")
OTHERS = ("schema", "min_heads_per_layer", "mask", "score_seconds", "eval_seconds", "parameters", "flops",
          "checkpoint", "data", "versions", "revision")  # fmt: skip
REQUIRED = (*TEXTS, *NUMBERS, *MEASURES, *OTHERS)
DRAWN = ("scope", "schedule", "min_heads_per_layer")  # knobs of the selection, which are part of a curve's name
ADDED = ("path", "curve", "jobs_finished", "jobs_declared")
# What a job came to or started from, which is no knob of it; a row may lack these.
FOUND = ("alpha_used", "label_order", "quality_norm", "quality_strict", "calibration_source")


class BadRows(Exception):
    """A row file that cannot be trusted; the message says why, in words that follow the file's name."""


def load(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """All rows under `results_dir`, or those of one experiment, tidy and in a fixed order.

    A file with a garbled line, missing keys or missing ratios is left out as a whole, with a RowsWarning.
    Columns beyond the row's keys: path (of the row file), curve (its name), jobs_finished and jobs_declared
    (of the row's experiment, model and task).
    """
    results_dir = Path(results_dir)
    names = [experiment] if experiment else grid.experiments(results_dir)
    records = [row for name in names for row in _records(results_dir / name)]
    if not records:
        return pd.DataFrame(columns=[*REQUIRED, *ADDED])
    rows = pd.DataFrame(records)
    rows["ratio"] = rows["ratio"].astype(float).round(6)
    rows[list(MEASURES)] = rows[list(MEASURES)].astype(float)
    rows = add_labels(rows, [*DRAWN, *(name for name in rows if name not in (*REQUIRED, *ADDED, *FOUND))])
    rows = _one_run_a_seed(rows, results_dir)
    rows = rows.sort_values([*SETTING, "curve", "seed", "ratio"], kind="stable", ignore_index=True)
    return _add_completeness(rows, results_dir)


def read_run(path: Path, text: str) -> list[dict[str, Any]]:
    """The rows of one finished job from the text of its row file.

    Raises:
        BadRows: a garbled line, a missing key, a wrong type, or ratios other than those of the score file.
    """
    rows = [_parse(line, number) for number, line in enumerate(text.splitlines(), start=1)]
    if not rows or rows[0]["ratio"] != 0:
        raise BadRows("does not begin with the unpruned model (ratio 0)")
    if any(row["run_id"] != path.stem for row in rows):
        raise BadRows("holds a run id that is not its name")
    _check_ratios(path, [row["ratio"] for row in rows])
    # The folder's name counts: it is what --experiment and the names of the outputs speak of.
    return [{**row, "experiment": path.parent.name, "path": str(path)} for row in rows]


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a folder; what cannot be trusted is left out with a warning."""
    if left := runs.unread(folder):
        warnings.warn(f"{folder} is packed, so {left} single row files beside are left out.", RowsWarning, stacklevel=2)
    try:
        for path, text in runs.texts(folder):
            try:
                yield from read_run(path, text)
            except BadRows as problem:
                warnings.warn(f"{path} {problem} and is left out.", RowsWarning, stacklevel=2)
    except runs.BadFile as file:
        warnings.warn(f"{file} cannot be read and is left out.", RowsWarning, stacklevel=2)


def _parse(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        raise BadRows(f"has a garbled line ({number})") from None
    missing = [key for key in REQUIRED if not isinstance(row, dict) or key not in row]
    if missing:
        raise BadRows(f"lacks {', '.join(missing)} in line {number}")
    if row["schema"] != SCHEMA:
        raise BadRows(f"has schema {row['schema']} where {SCHEMA} is read")
    wrong = [key for key in (*TEXTS, *NUMBERS, *MEASURES, "mask") if not _has_its_type(key, row[key])]
    if wrong:
        raise BadRows(f"has a value of the wrong type for {', '.join(wrong)} in line {number}")
    return row


def _has_its_type(key: str, value: Any) -> bool:
    if key in TEXTS:
        return isinstance(value, str)
    if key == "mask":
        return isinstance(value, dict)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number or (key in MEASURES and value is None)


def _check_ratios(path: Path, ratios: list[float]) -> None:
    """A file cut off between two lines still parses; the score file knows how many rows there were."""
    try:
        expected = runs.read_arrays(path, ("ratios",))["ratios"]
    except FileNotFoundError:
        return
    except (runs.BadFile, KeyError):
        raise BadRows(f"has a score file ({path.stem}.npz) that cannot be read") from None
    if len(expected) != len(ratios) or not np.allclose(expected, ratios, atol=1e-6):
        raise BadRows(f"has {len(ratios)} ratios where its score file has {len(expected)}, or others")


def _one_run_a_seed(rows: pd.DataFrame, results_dir: Path) -> pd.DataFrame:
    """Two runs of one curve and seed must not count as two seeds: keep the declared one, else the first."""
    found = rows.drop_duplicates(["experiment", "run_id"])
    same = [*SETTING, "curve", "seed"]
    found = found[found.duplicated(same, keep=False)]
    dropped = []
    for (experiment, *_), group in found.groupby(same, dropna=False):
        declared = {job.run_id for job in grid.declared_jobs(results_dir, experiment)}
        kept = min(group["run_id"], key=lambda run_id: (run_id not in declared, run_id))
        others = sorted(set(group["run_id"]) - {kept})
        dropped += [(experiment, run_id) for run_id in others]
        message = f"{experiment}: {', '.join(others)} has the knobs and the seed of {kept} and is left out."
        warnings.warn(message, RowsWarning, stacklevel=3)
    keys = pd.Series(list(zip(rows["experiment"], rows["run_id"], strict=True)), index=rows.index)
    return rows[~keys.isin(dropped)]


def _add_completeness(rows: pd.DataFrame, results_dir: Path) -> pd.DataFrame:
    """Put the counts on the rows, so that every figure of a part of the frame can state them."""
    for experiment, part in rows.groupby("experiment"):
        jobs = grid.jobs(results_dir, str(experiment), part)
        finished = set(part["run_id"])
        for (model, task), cell in part.groupby(["model", "task"]):
            mine = [job for job in jobs if (job.model, job.task) == (model, task)]
            rows.loc[cell.index, "jobs_declared"] = len(mine)
            rows.loc[cell.index, "jobs_finished"] = sum(job.run_id in finished for job in mine)
    return rows.astype({"jobs_declared": int, "jobs_finished": int})
