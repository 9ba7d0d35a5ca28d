"""What a command line declares: the jobs of its grid, known before the first of them runs."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from experiments.job import Job
from experiments.schema import to_config
from hies.cache import replacing

COMMAND = "python -m experiments.run"


def command_for(overrides: list[str]) -> str:
    """The command line that runs one job with these overrides."""
    return " ".join([COMMAND, *(shlex.quote(override) for override in overrides)])


@dataclass(frozen=True)
class Declared:
    """jobs: all that a command line asks for. sweep: it is a grid. whole: the grid is the experiment's own."""

    jobs: list[Job]
    sweep: bool
    whole: bool


def declared_jobs(arguments: list[str], multirun: bool) -> Declared:
    """Every job that the arguments declare; Hydra must be initialised.

    Raises:
        HiesError: a value that its option cannot take, in any of the jobs.
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(arguments)
    plain = [str(override.input_line) for override in given if not override.is_sweep_override()]
    base: Any = compose("config", plain, return_hydra_config=True)
    if not multirun and base.hydra.mode != RunMode.MULTIRUN:
        return Declared([_job(arguments)], sweep=False, whole=False)
    params = base.hydra.sweeper.params or {}
    swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    batches = BasicSweeper.split_arguments([*swept, *given], None)
    jobs = [_job(list(overrides)) for batch in batches for overrides in batch]
    own = bool(params) and not any(
        override.is_sweep_override() or override.get_key_element() in params for override in given
    )
    return Declared(jobs, sweep=True, whole=own)


def write_grid(declared: Declared) -> None:
    """Leave the declared jobs beside the rows, so that analysis can name the missing ones.

    A part of an experiment, or a sweep made up on the command line, adds to the grid that is there.
    """
    config = declared.jobs[0].config
    path = Path(config.results_dir) / config.name / "grid.json"
    jobs = {job.run_id: job.describe() for job in declared.jobs}
    if not declared.whole and path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        jobs = {job["run_id"]: job for job in known} | jobs
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"jobs": list(jobs.values())}, indent=1), encoding="utf-8")


def _job(overrides: list[str]) -> Job:
    return Job(to_config(compose("config", overrides)), command_for(overrides))
