"""Which jobs an experiment declares, which of them have rows, and the command that fills each gap."""

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import efficiency, runs
from analysis.errors import RowsWarning


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
        return ", ".join([self.model, self.task, self.criterion, *knobs, f"seed {self.seed}"])


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
        jobs = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        failed = failures(path.parent)
        return [_job(experiment, job, failed) for job in jobs]
    except (ValueError, KeyError, TypeError):
        message = f"{path} is no list of jobs and is not used, so missing jobs cannot be named."
        warnings.warn(message, RowsWarning, stacklevel=2)
        return []


def jobs(results_dir: Path, experiment: str, rows: pd.DataFrame) -> list[Job]:
    """The declared jobs; without a grid, the jobs that are found (finished in `rows`, or failed)."""
    declared = declared_jobs(results_dir, experiment)
    if declared:
        return declared
    finished = rows[rows["experiment"] == experiment].drop_duplicates("run_id")
    found = [
        Job(experiment, row["run_id"], row["model"], row["task"], row["criterion"], {}, row["seed"], row["command"])
        for row in finished.to_dict("records")
    ]
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
    return {path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")}


def _is_experiment(folder: Path) -> bool:
    if folder.name == efficiency.FOLDER:  # rows of another kind
        return False
    return runs.has_rows(folder) or (folder / runs.GRID).exists() or bool(failures(folder))


def _job(experiment: str, job: dict[str, Any], failed: set[str]) -> Job:
    cell = (job["run_id"], job["model"], job["task"], job["criterion"], job["parameters"], job["seed"])
    return Job(experiment, *cell, command=job["command"], failed=job["run_id"] in failed)


def _forced(job: Job) -> Job:
    """The job whose file is there but was left out: without force it would be skipped as finished."""
    return replace(job, command=f"{job.command} force=true")
