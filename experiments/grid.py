"""What a command line declares: the jobs of its grid, known before the first of them runs."""

import json
import shlex
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


def declared_jobs(arguments: list[str], multirun: bool) -> tuple[list[Job], bool]:
    """Every job that the arguments declare, and whether they declare a sweep; Hydra must be initialised.

    Raises:
        HiesError: a value that its option cannot take, in any of the jobs.
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(arguments)
    plain = [str(override.input_line) for override in given if not override.is_sweep_override()]
    base: Any = compose("config", plain, return_hydra_config=True)
    if not multirun and base.hydra.mode != RunMode.MULTIRUN:
        return [_job(arguments)], False
    params = base.hydra.sweeper.params or {}
    swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    batches = BasicSweeper.split_arguments([*swept, *given], None)
    return [_job(list(overrides)) for batch in batches for overrides in batch], True


def write_grid(jobs: list[Job]) -> None:
    """Leave the declared jobs beside the rows, so that analysis can name the missing ones."""
    path = Path(jobs[0].config.results_dir) / jobs[0].config.name / "grid.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"jobs": [job.describe() for job in jobs]}, indent=1), encoding="utf-8")


def _job(overrides: list[str]) -> Job:
    return Job(to_config(compose("config", overrides)), command_for(overrides))
