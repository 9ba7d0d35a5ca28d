"""Row files -> one tidy frame: one line per evaluated ratio, with the name of its curve."""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis.columns import table_of, without_collecting
from analysis.labels import SETTING, add_labels
from analysis.versions import warn_of_versions
from hies.errors import RowsWarning
from hies.runs import folders as runs
from hies.runs import grid
from hies.runs.files import read_run
from hies.runs.schema import MEASURES, REQUIRED, BadRows, Row

DRAWN = ("scope", "schedule", "min_heads_per_layer")  # knobs of the selection, which are part of a curve's name
ADDED = ("path", "curve", "jobs_finished", "jobs_declared")
# What a job came to or started from, which is no knob of it; a row may lack these.
FOUND = ("alpha_used", "label_order", "quality_norm", "quality_strict", "calibration_source")


def load(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """All rows under `results_dir`, or those of one experiment, tidy and in a fixed order.

    A file with a garbled or changed line, missing keys or missing ratios is left out as a whole, with a RowsWarning.
    Columns beyond the row's keys: path (of the row file), curve (its name), jobs_finished and jobs_declared
    (of the row's experiment, model and task).
    """
    results_dir = Path(results_dir)
    with without_collecting():
        return _load(results_dir, [experiment] if experiment else grid.experiments(results_dir))


def finished(rows: pd.DataFrame) -> list[Row]:
    """Returns of each job in these rows what `hies.runs.grid` needs to know of it."""
    return rows.drop_duplicates(["experiment", "run_id"])[list(grid.OF_ROWS)].to_dict("records")


def missing_jobs(results_dir: str | Path, rows: pd.DataFrame, experiment: str | None = None) -> list[grid.Job]:
    """Returns the declared jobs that have no rows in `rows`; a file that could not be read counts as missing."""
    return grid.missing_jobs(Path(results_dir), finished(rows), experiment)


def _load(results_dir: Path, names: list[str]) -> pd.DataFrame:
    table = table_of(run for name in names for run in _runs(results_dir, name))
    if not table.names:
        return pd.DataFrame(columns=[*REQUIRED, *ADDED])
    found = add_labels(table.runs, [*DRAWN, *(name for name in table.runs if name not in (*REQUIRED, *ADDED, *FOUND))])
    found = _one_run_a_seed(found, results_dir)
    warn_of_versions(found)
    found = _add_completeness(found, results_dir)
    rows = table.with_runs(found).whole([*SETTING, "curve", "seed"], "ratio")
    rows["ratio"] = rows["ratio"].astype(float).round(6)
    return rows.astype(dict.fromkeys(MEASURES, float))


def _runs(results_dir: Path, name: str) -> Iterator[list[Row]]:
    """The runs of an experiment; what cannot be trusted is left out with a warning."""
    if not runs.is_name(name):
        warnings.warn(f"{name!r} is no name of an experiment and is left out.", RowsWarning, stacklevel=2)
        return
    folder = results_dir / name
    if left := runs.unread(folder):
        warnings.warn(f"{folder} is packed, so {left} single row files beside are left out.", RowsWarning, stacklevel=2)
    try:
        for path, text in runs.texts(folder):
            try:
                yield read_run(path, text)
            except BadRows as problem:
                warnings.warn(f"{path} {problem} and is left out.", RowsWarning, stacklevel=2)
    except runs.BadFile as problem:
        warnings.warn(f"{problem} and is left out.", RowsWarning, stacklevel=2)


def _one_run_a_seed(found: pd.DataFrame, results_dir: Path) -> pd.DataFrame:
    """Two runs of one curve and seed must not count as two seeds: keep the declared one, else the first."""
    same = [*SETTING, "curve", "seed"]
    dropped: list[int] = []
    declared: dict[str, set[str]] = {}
    for (experiment, *_), group in found[found.duplicated(same, keep=False)].groupby(same):
        if experiment not in declared:
            declared[experiment] = {job.run_id for job in grid.declared_jobs(results_dir, experiment)}
        kept = min(group["run_id"], key=lambda run_id: (run_id not in declared[experiment], run_id))
        others = group[group["run_id"] != kept]
        dropped += others.index.tolist()
        if not others.empty:
            names = ", ".join(sorted(set(others["run_id"])))
            message = f"{experiment}: {names} has the knobs and the seed of {kept} and is left out."
            warnings.warn(message, RowsWarning, stacklevel=3)
    return found.drop(index=dropped)


def _add_completeness(found: pd.DataFrame, results_dir: Path) -> pd.DataFrame:
    """Put the counts on the runs, so that every figure of a part of the frame can state them."""
    rows = finished(found)
    jobs = [job for name in found["experiment"].unique() for job in grid.jobs(results_dir, name, rows)]
    there = set(zip(found["experiment"], found["run_id"], strict=True))
    declared = Counter((job.experiment, job.model, job.task) for job in jobs)
    done = Counter((job.experiment, job.model, job.task) for job in jobs if (job.experiment, job.run_id) in there)
    cells = [*zip(*(found[name] for name in SETTING), strict=True)]
    return found.assign(jobs_declared=[declared[cell] for cell in cells], jobs_finished=[done[cell] for cell in cells])
