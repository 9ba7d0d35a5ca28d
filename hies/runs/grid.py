"""Which jobs an experiment declares, which of them have rows, and the command that fills each gap."""

import contextlib
import json
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import orjson

from hies.errors import RowsWarning, printable
from hies.runs import folders
from hies.runs.files import FAILED, failed_command, read_run
from hies.runs.schema import BadRows, Row
from hies.storage import remove_partials, replacing

JOB_TEXTS = ("run_id", "model", "task", "criterion", "command")
OF_ROWS = ("experiment", *JOB_TEXTS, "seed")  # what the rows of a job say of it


@dataclass(frozen=True)
class DeclaredJob:
    """One declared job: a curve for one seed.

    Attributes:
        experiment: the folder that its rows are in.
        run_id: their file's name.
        model: the model, as the configuration calls it.
        task: the task.
        criterion: the criterion.
        parameters: its knobs.
        seed: the seed; None if it is not known.
        command: runs the job; empty if it is not known.
        failed: it left a record of its failure.
    """

    experiment: str
    run_id: str
    model: str
    task: str
    criterion: str
    parameters: dict[str, Any]
    seed: int | None
    command: str
    failed: bool = False

    def __str__(self) -> str:
        """The cell that this job fills, in words."""
        knobs = [f"{name}={value}" for name, value in self.parameters.items() if value is not None]
        return printable(", ".join([self.model, self.task, self.criterion, *knobs, f"seed {self.seed}"]))


def experiments(results_dir: Path) -> list[str]:
    """Returns the folders of `results_dir` that hold rows of jobs, failures or a grid."""
    if not results_dir.is_dir():
        return []
    return sorted(folder.name for folder in results_dir.iterdir() if folder.is_dir() and _is_experiment(folder))


def write_grid(folder: Path, jobs: Iterable[dict[str, Any]], replaced: Collection[str] = ()) -> None:
    """Adds jobs to the grid of an experiment, the newest last, so that analysis can name the missing ones.

    Args:
        folder: of the experiment's rows.
        jobs: what each says of itself, with OF_ROWS (without the experiment) and `parameters`; `curve`, where it is
            there, is all but the ratios: a job takes the place of an older one of its curve.
        replaced: the models whose jobs, as far as the grid has any, these take the place of.
    """
    path = folder / folders.GRID
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        new = {job["run_id"]: job for job in jobs}
        curves = {job.get("curve") for job in new.values()} - {None}
        kept = [
            job
            for job in _grid_there(path)
            if job["model"] not in replaced and job["run_id"] not in new and job.get("curve") not in curves
        ]
        remove_partials(path)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"jobs": [*kept, *new.values()]}, indent=1), encoding="utf-8")


def _grid_there(path: Path) -> list[dict[str, Any]]:
    """The jobs of a grid that is there; one that is no list of jobs is put aside."""
    if not path.exists():
        return []
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        if all(isinstance(job["run_id"], str) and isinstance(job["model"], str) for job in known):
            return known
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    warnings.warn(f"{path} is no list of jobs; it is kept as {path.name}.damaged and begun anew.", stacklevel=3)
    path.replace(path.with_name(f"{path.name}.damaged"))
    return []


def read_grid(results_dir: Path, experiment: str) -> list[DeclaredJob]:
    """Returns the jobs in `grid.json`; none without one (then completeness is only what has rows or failed)."""
    path = results_dir / experiment / folders.GRID
    if not path.exists():
        return []
    try:
        failed = failures(path.parent)
        declared = [_job(experiment, job, failed) for job in orjson.loads(path.read_bytes())["jobs"]]
    except (OSError, ValueError, KeyError, TypeError):
        folders.warn_of_rows(f"{path} is no list of jobs and is not used, so missing jobs cannot be named.")
        return []
    named = [job for job in declared if folders.is_name(job.run_id)]
    if left_out := len(declared) - len(named):
        folders.warn_of_rows(f"{path} declares {left_out} jobs with a name that is no run id; they are left out.")
    return named


def jobs(results_dir: Path, experiment: str, finished: Iterable[Row]) -> list[DeclaredJob]:
    """Returns the declared jobs; without a grid, those that are finished or failed.

    Args:
        results_dir: where the experiments are.
        experiment: which of them.
        finished: a row of each job that has any, of this or of other experiments, with OF_ROWS.
    """
    if declared := read_grid(results_dir, experiment):
        return declared
    rows = [row for row in finished if row["experiment"] == experiment]
    ended = [_job(experiment, {**row, "parameters": {}}, failed=set()) for row in rows]
    folder = results_dir / experiment
    failed = sorted(failures(folder) - {row["run_id"] for row in rows})
    commands = {run_id: printable(failed_command(folder / f"{run_id}.jsonl")) for run_id in failed}
    return ended + [
        DeclaredJob(experiment, run_id, "?", "?", run_id, {}, None, command, True)
        for run_id, command in commands.items()
    ]


def unfinished_jobs(results_dir: Path, finished: Collection[Row], experiment: str | None = None) -> list[DeclaredJob]:
    """Returns the declared jobs that are not finished; a job whose file could not be read counts as missing.

    Args:
        results_dir: where the experiments are.
        finished: as for `jobs`; rows that stand back for a newer run of their curve need not be among them.
        experiment: the only one to look at; None looks at all.
    """
    there = {(row["experiment"], row["run_id"]) for row in finished}
    missing = []
    for name in [experiment] if experiment else experiments(results_dir):
        left = [job for job in jobs(results_dir, name, finished) if (name, job.run_id) not in there]
        whole = _readable(results_dir / name, {job.run_id for job in left})
        for job in left:
            if (results_dir / name / f"{job.run_id}.jsonl").exists():  # but damaged: else skipped as finished
                job = replace(job, command=f"{job.command} force=true")
            missing += [job] if job.run_id not in whole else []
    return missing


def failures(folder: Path) -> set[str]:
    """Returns the run ids that left a record of their failure."""
    run_ids = (path.name.removesuffix(FAILED) for path in folder.glob(f"*{FAILED}"))
    return {run_id for run_id in run_ids if folders.is_name(run_id)}


def _readable(folder: Path, run_ids: set[str]) -> set[str]:
    """Those of the runs that have rows which can be trusted."""
    readable = set()
    with warnings.catch_warnings(), contextlib.suppress(folders.BadFile):
        warnings.simplefilter("ignore", RowsWarning)  # whoever loads the rows says what is wrong with them
        for path, text in folders.texts(folder, run_ids):
            with contextlib.suppress(BadRows):
                read_run(path, text)
                readable.add(path.stem)
    return readable


def _is_experiment(folder: Path) -> bool:
    if folder.name in (folders.EFFICIENCY, folders.SCORING):
        return False
    return folders.has_rows(folder) or (folder / folders.GRID).exists() or bool(failures(folder))


def _job(experiment: str, job: dict[str, Any], failed: set[str]) -> DeclaredJob:
    texts = {name: job[name] for name in JOB_TEXTS}
    if not (all(isinstance(text, str) for text in texts.values()) and isinstance(job["parameters"], dict)):
        raise TypeError("a job of other types")
    # Commands come from files that may have come from anywhere, and are printed for a terminal.
    texts["command"] = printable(texts["command"])
    knobs = job["parameters"]
    return DeclaredJob(experiment, **texts, parameters=knobs, seed=job["seed"], failed=texts["run_id"] in failed)
