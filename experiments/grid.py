"""What a command line declares: the jobs of its grid, known before the first of them runs."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.job import Job
from experiments.schema import to_config
from hies.cache import replacing

SWEPT = ("seed", "criterion.alpha", "calibration.size")  # values that grids vary, set without composing anew


@dataclass(frozen=True)
class Declared:
    """jobs: all that a command line asks for. sweep: it is a grid. whole: the grid is the experiment's own.

    common: the overrides that all of the jobs share.
    """

    jobs: list[Job]
    sweep: bool
    whole: bool
    common: list[str] = field(default_factory=list)


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
        job = Job(to_config(compose("config", arguments)), _own(arguments))
        return Declared([job], sweep=False, whole=False, common=plain)
    params = base.hydra.sweeper.params or {}
    swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    batches = BasicSweeper.split_arguments([*swept, *given], None)
    composer = _Composer()
    jobs = [composer.job(list(overrides)) for batch in batches for overrides in batch]
    own = bool(params) and not any(
        override.is_sweep_override() or override.get_key_element() in params for override in given
    )
    return Declared(jobs, sweep=True, whole=own, common=plain)


def write_grid(declared: Declared) -> None:
    """Leave the declared jobs beside the rows, so that analysis can name the missing ones.

    A part of an experiment, or a sweep made up on the command line, adds to the grid that is there; a whole one takes
    the place of what was declared for the same models.
    """
    config = declared.jobs[0].config
    path = Path(config.results_dir) / config.name / "grid.json"
    jobs = {job.run_id: job.describe() for job in declared.jobs}
    replaced = {job.config.model.name for job in declared.jobs} if declared.whole else set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(".grid.json.lock")):
        known = json.loads(path.read_text(encoding="utf-8"))["jobs"] if path.exists() else []
        jobs = {job["run_id"]: job for job in known if job["model"] not in replaced} | jobs
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"jobs": list(jobs.values())}, indent=1), encoding="utf-8")


class _Composer:
    """Composes the jobs of a sweep: Hydra does it once for each choice of groups; values are set on copies."""

    def __init__(self) -> None:
        self._parser = OverridesParser.create()
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def job(self, overrides: list[str]) -> Job:
        """The job that these overrides make, none of them a sweep.

        Raises:
            HiesError: a value that its option cannot take.
        """
        values = [override for override in self._parser.parse_overrides(overrides) if _is_value(override)]
        late = {str(override.input_line) for override in values}
        chosen = tuple(override for override in overrides if override not in late)
        if chosen not in self._composed:
            self._composed[chosen] = compose("config", list(chosen))
        node = copy.deepcopy(self._composed[chosen])
        for override in values:
            OmegaConf.update(node, override.key_or_group, override.value())
        return Job(to_config(node), _own(overrides))


def _own(overrides: list[str]) -> tuple[str, ...]:
    """What makes the job itself: how and where Hydra runs it (hydra/launcher=...) is no part of it."""
    return tuple(override for override in overrides if not override.startswith(("hydra.", "hydra/")))


def _is_value(override: Override) -> bool:
    """Sets one number or word of the job itself: not a choice of a group, nothing of Hydra's, nothing added."""
    plain = override.type == OverrideType.CHANGE and isinstance(override.value(), int | float | str)
    return plain and override.key_or_group in SWEPT
