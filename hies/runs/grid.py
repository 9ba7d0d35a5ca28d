"""Which jobs an experiment declares, which of them have rows, and the command that fills each gap."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from analysis import efficiency
from hies.errors import RowsWarning, printable
from hies.runs import folders as runs

TEXTS = ("run_id", "model", "task", "criterion", "command")
FOUND = (*TEXTS, "seed")  # what the rows of a job without a declaration say of it


@dataclass(frozen=True)
class Job:
    """One declared job: a curve for one seed."""

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
    """The folders of `results_dir` that hold rows of jobs, failures or a grid."""
    if not results_dir.is_dir():
        return []
    return sorted(folder.name for folder in results_dir.iterdir() if folder.is_dir() and _is_experiment(folder))


def declared_jobs(results_dir: Path, experiment: str) -> list[Job]:
    """The jobs in `grid.json`; empty where there is none (then completeness is only what is found)."""
    path = results_dir / experiment / runs.GRID
    if not path.exists():
        return []
    try:
        declared = orjson.loads(path.read_bytes())["jobs"]
        failed = failures(path.parent)
        jobs = [_job(experiment, job, failed) for job in declared]
    except (OSError, ValueError, KeyError, TypeError):
        message = f"{path} is no list of jobs and is not used, so missing jobs cannot be named."
        warnings.warn(message, RowsWarning, stacklevel=2)
        return []
    named = [job for job in jobs if runs.is_name(job.run_id)]
    if left := len(jobs) - len(named):
        message = f"{path} declares {left} jobs with a name that is no run id; they are left out."
        warnings.warn(message, RowsWarning, stacklevel=2)
    return named


def jobs(results_dir: Path, experiment: str, rows: pd.DataFrame) -> list[Job]:
    """The declared jobs; without a grid, the jobs that are found (finished in `rows`, or failed)."""
    declared = declared_jobs(results_dir, experiment)
    if declared:
        return declared
    finished = rows.loc[rows["experiment"] == experiment, list(FOUND)].drop_duplicates("run_id")
    found = [_job(experiment, {**row, "parameters": {}}, failed=set()) for row in finished.to_dict("records")]
    failed = sorted(failures(results_dir / experiment) - set(finished["run_id"]))
    return found + [Job(experiment, run_id, "?", "?", run_id, {}, None, "", failed=True) for run_id in failed]


def missing_jobs(results_dir: Path, rows: pd.DataFrame, experiment: str | None = None) -> list[Job]:
    """The declared jobs that have no rows in `rows`; a file that could not be read counts as missing."""
    finished = set(zip(rows["experiment"], rows["run_id"], strict=True))
    names = [experiment] if experiment else experiments(results_dir)
    missing = [job for name in names for job in jobs(results_dir, name, rows) if (name, job.run_id) not in finished]
    return [_forced(job) if (results_dir / job.experiment / f"{job.run_id}.jsonl").exists() else job for job in missing]


def failures(folder: Path) -> set[str]:
    """The run ids that left a record of their failure."""
    suffix = ".failed.json"
    run_ids = (path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    return {run_id for run_id in run_ids if runs.is_name(run_id)}


def _is_experiment(folder: Path) -> bool:
    if folder.name == efficiency.FOLDER:  # rows of another kind
        return False
    return runs.has_rows(folder) or (folder / runs.GRID).exists() or bool(failures(folder))


def _job(experiment: str, job: dict[str, Any], failed: set[str]) -> Job:
    texts = [job[name] for name in TEXTS]
    if not (all(isinstance(text, str) for text in texts) and isinstance(job["parameters"], dict)):
        raise TypeError("a job of other types")
    run_id, model, task, criterion, command = texts
    # Commands come from files that may have come from anywhere, and are printed for a terminal.
    shown = printable(command)
    return Job(experiment, run_id, model, task, criterion, job["parameters"], job["seed"], shown, run_id in failed)


def _forced(job: Job) -> Job:
    """The job whose file is there but was left out: without force it would be skipped as finished."""
    return replace(job, command=f"{job.command} force=true")
