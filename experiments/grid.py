"""What a command line declares: the jobs of its grid, known before the first of them runs."""

import json
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
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
from hies.storage import remove_partials, replacing

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
        jobs = {job["run_id"]: job for job in _known(path) if job["model"] not in replaced} | jobs
        remove_partials(path)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"jobs": list(jobs.values())}, indent=1), encoding="utf-8")


def _known(path: Path) -> list[dict[str, Any]]:
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


class _Composer:
    """Composes the jobs of a sweep: Hydra does it once for each choice of groups; then values alone are set."""

    def __init__(self) -> None:
        self._parse = lru_cache(maxsize=None)(OverridesParser.create().parse_override)
        self._composed: dict[tuple[tuple[str, ...], tuple[str, ...]], DictConfig] = {}

    def job(self, overrides: list[str]) -> Job:
        """The job that these overrides make, none of them a sweep.

        Raises:
            HiesError: a value that its option cannot take.
        """
        values = [override for override in map(self._parse, overrides) if _is_value(override)]
        late = {str(override.input_line) for override in values}
        chosen = tuple(override for override in overrides if override not in late)
        # Jobs that share a node set the same keys, so that none of them sees a value of another.
        shared = chosen, tuple(override.key_or_group for override in values)
        if shared not in self._composed:
            self._composed[shared] = compose("config", list(chosen))
        node = self._composed[shared]
        for override in values:
            OmegaConf.update(node, override.key_or_group, override.value())
        return Job(to_config(node), _own(overrides))


def _own(overrides: list[str]) -> tuple[str, ...]:
    """What makes the job itself: how and where it runs (hydra/launcher=..., resources.gpus=...) is no part of it."""
    return tuple(override for override in overrides if not override.startswith(("hydra.", "hydra/", "resources.")))


def _is_value(override: Override) -> bool:
    """Sets one number or word of the job itself: not a choice of a group, nothing of Hydra's, nothing added."""
    plain = override.type == OverrideType.CHANGE and isinstance(override.value(), int | float | str)
    return plain and override.key_or_group in SWEPT
