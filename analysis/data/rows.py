"""Row files -> one tidy frame: one line per evaluated ratio, with the name of its curve."""

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.text.labels import SETTING, add_labels
from analysis.text.measures import CORRELATION, NORMALIZED, REFIT, TEMPERED
from hies.runs import folders, grid
from hies.runs.files import read_run
from hies.runs.folders import warn_of_rows
from hies.runs.schema import ADDED, CRITERION_SEED, LOSSES, MEASURES, NOTES, PER_RATIO, REQUIRED, BadRows, Row

SELECTION_KNOBS = ("scope", "schedule", "min_heads_per_layer")  # required keys that are part of a curve's name
RUN_OF_CURVE = [*SETTING, "curve", "seed"]  # of which there should be one run


def load(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """Returns all rows under `results_dir`, or those of one experiment, tidy and in a fixed order.

    A file with a garbled or changed line, missing keys or missing ratios is left out as a whole, with a RowsWarning.
    Columns beyond the row's keys: path (of the row file), curve (its name), jobs_finished and jobs_declared
    (of the row's experiment, model and task), tasks_without_rows (declared for the experiment and the model,
    with commas between). The losses of older rows are NaN; quality_norm is quality where no row of a task has it.
    """
    results_dir = Path(results_dir)
    names = [experiment] if experiment else grid.experiments(results_dir)
    with _without_collecting():
        runs, ratios = _frames(run for name in names for run in _runs(results_dir, name))
        if runs.empty:
            return pd.DataFrame(columns=[*REQUIRED, *ADDED])
        if "precision" in runs:
            runs["precision"] = runs["precision"].fillna("unknown")
        no_knobs = {*REQUIRED, *ADDED, *NOTES}
        knobs = [*SELECTION_KNOBS, *(name for name in runs if name not in no_knobs)]
        runs = add_labels(_with_criterion_seeds(runs, knobs), knobs)
        finished = finished_jobs(runs)  # those among them that stand back for a newer run of their curve
        runs = _one_run_a_seed(runs.assign(ratios=ratios["run"].value_counts()), results_dir).drop(columns="ratios")
        _warn_of_versions(runs)
        return _joined(_with_completeness(runs, results_dir, finished), ratios)


def finished_jobs(rows: pd.DataFrame) -> list[Row]:
    """Returns of each job in these rows what `hies.runs.grid` needs to know of it."""
    return rows.drop_duplicates(["experiment", "run_id"])[list(grid.OF_ROWS)].to_dict("records")


def missing_jobs(results_dir: str | Path, rows: pd.DataFrame, experiment: str | None = None) -> list[grid.DeclaredJob]:
    """Returns the declared jobs that have no rows in `rows`; a file that could not be read counts as missing."""
    return grid.unfinished_jobs(Path(results_dir), finished_jobs(rows), experiment)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Pauses the garbage collector, which would look through all rows again and again while they are read."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()  # with the next line: nothing of what is there is looked at before the next full collection
            gc.unfreeze()
            gc.enable()


def _frames(runs: Iterable[list[Row]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A line a run, and a line a row of what differs from ratio to ratio, with the place of its `run` in the first.

    There may be a hundred thousand rows: what all rows of a run share is held once. Rows of one run that differ in a
    knob count as several runs.
    """
    shared: list[Row] = []
    ratios: list[Row] = []
    for rows in runs:
        for row in rows:
            own = {key: row.pop(key) for key in PER_RATIO if key in row}
            if not shared or row != shared[-1]:
                shared.append(row)
            ratios.append({**own, "run": len(shared) - 1})
    return pd.DataFrame(shared), pd.DataFrame(ratios)


def _with_criterion_seeds(runs: pd.DataFrame, knobs: list[str]) -> pd.DataFrame:
    """Fills in the seeds of criteria that are their job's own, where these runs belong to curves of one such seed.

    A row names that seed only where it is not the job's, so of a grid over both seeds those runs lack it where the two
    are the same. Of jobs that each draw anew, one at least has a seed that no run names.
    """
    if CRITERION_SEED not in runs:
        return runs
    others = [*SETTING, "criterion", *(knob for knob in knobs if knob != CRITERION_SEED)]
    filled = runs[CRITERION_SEED].copy()
    for _, group in runs.groupby([runs[name].map(str) for name in others], dropna=False):
        seeds = group.loc[group[CRITERION_SEED].isna(), "seed"]
        if seeds.isin(group[CRITERION_SEED]).all():
            filled[seeds.index] = seeds
    return runs.assign(**{CRITERION_SEED: filled})


def _joined(runs: pd.DataFrame, ratios: pd.DataFrame) -> pd.DataFrame:
    """A line a row, ordered by run and ratio; runs that were left out take their ratios with them."""
    place = ratios["run"].map(runs.groupby(RUN_OF_CURVE).ngroup())
    ratios = ratios.assign(place=place, ratio=ratios["ratio"].astype(float).round(6)).dropna(subset="place")
    ratios = ratios.sort_values(["place", "ratio"], kind="stable", ignore_index=True)
    # A row's own keys of these names are in the name of its curve by now.
    rows = ratios.join(runs.drop(columns=["run", "place"], errors="ignore"), on="run").drop(columns=["run", "place"])
    known = {key: rows.get(key, np.nan) for key in LOSSES.values()}  # older rows have none
    known |= dict.fromkeys((REFIT, CORRELATION, TEMPERED), np.nan)  # `analysis.data.answers` fills them in
    normalized = rows[NORMALIZED].astype(float) if NORMALIZED in rows else pd.Series(np.nan, index=rows.index)
    has_one = normalized.notna().groupby([rows[name] for name in SETTING]).transform("any")
    known[NORMALIZED] = normalized.where(has_one, rows["quality"].astype(float))  # of tasks that know no other
    return rows.assign(**known).astype(dict.fromkeys((*MEASURES, *known), float))


def _runs(results_dir: Path, name: str) -> Iterator[list[Row]]:
    """The runs of an experiment; what cannot be trusted is left out with a warning."""
    if not folders.is_name(name):
        warn_of_rows(f"{name!r} is no name of an experiment and is left out.")
        return
    folder = results_dir / name
    if unread := folders.unread(folder):
        warn_of_rows(f"{folder} is packed, so {unread} single row files beside are left out.")
    try:
        for path, text in folders.texts(folder):
            try:
                yield read_run(path, text)
            except BadRows as problem:
                warn_of_rows(f"{path} {problem} and is left out.")
    except folders.BadFile as problem:
        warn_of_rows(f"{problem} and is left out.")


def _one_run_a_seed(runs: pd.DataFrame, results_dir: Path) -> pd.DataFrame:
    """Two runs of one curve and seed must not count as two seeds: keep the one declared last, else of most ratios.

    They are not joined, since what a run finds at one ratio may depend on its others (an alpha that all of them share).
    """
    dropped: list[int] = []
    repeated = runs[runs.duplicated(RUN_OF_CURVE, keep=False)]
    grids = {name: grid.read_grid(results_dir, name) for name in repeated["experiment"].unique()}
    declared = {(name, job.run_id): place for name, jobs in grids.items() for place, job in enumerate(jobs, start=1)}
    left_out: dict[str, list[str]] = {}
    for (experiment, *_), group in repeated.groupby(RUN_OF_CURVE):
        place = [declared.get((experiment, run_id), 0) for run_id in group["run_id"]]
        ordered = group.assign(place=place).sort_values(["place", "ratios", "run_id"], ascending=[False, False, True])
        kept = ordered["run_id"].iloc[0]
        others = group[group["run_id"] != kept]
        dropped += others.index.tolist()
        if not others.empty:
            names = ", ".join(sorted(set(others["run_id"])))
            left_out.setdefault(experiment, []).append(f"{names} has the knobs and the seed of {kept}")
    for experiment, said in left_out.items():
        more = f" (and {len(said) - 1} more such)" if len(said) > 1 else ""
        warn_of_rows(f"{experiment}: {said[0]}{more} and is left out: of several the one declared last counts.")
    return runs.drop(index=dropped)


def _with_completeness(runs: pd.DataFrame, results_dir: Path, finished: list[Row]) -> pd.DataFrame:
    """Put the counts on the runs, so that every figure of a part of the frame can state them."""
    jobs = [job for name in runs["experiment"].unique() for job in grid.jobs(results_dir, name, finished)]
    there = {(row["experiment"], row["run_id"]) for row in finished}
    declared = Counter((job.experiment, job.model, job.task) for job in jobs)
    done = Counter((job.experiment, job.model, job.task) for job in jobs if (job.experiment, job.run_id) in there)
    cells = [*zip(*(runs[name] for name in SETTING), strict=True)]
    absent: dict[tuple[str, str], list[str]] = {}
    for *of_model, task in sorted(declared.keys() - done.keys()):
        absent.setdefault((of_model[0], of_model[1]), []).append(task)
    return runs.assign(
        jobs_finished=[done[cell] for cell in cells],
        jobs_declared=[declared[cell] for cell in cells],
        tasks_without_rows=[",".join(absent.get(cell[:2], ())) for cell in cells],
    )


def _warn_of_versions(runs: pd.DataFrame) -> None:
    """One RowsWarning for each experiment with a curve whose rows were computed under several versions."""
    versions = pd.DataFrame(runs["versions"].tolist(), index=runs.index).fillna("unknown").astype(str)
    several = versions.groupby([runs[name] for name in (*SETTING, "curve")]).transform("nunique") > 1
    for experiment, part in versions.where(several)[several.any(axis=1)].groupby(runs["experiment"]):
        mixed = part.dropna(axis=1, how="all")
        named = "; ".join(f"{name} {' and '.join(sorted(mixed[name].dropna().unique()))}" for name in sorted(mixed))
        first = runs.loc[part.index[0]]
        warn_of_rows(
            f"{experiment}: rows of one curve were computed under different versions ({named}), "
            f"for example {first['curve']} of {first['model']} on {first['task']}."
        )
