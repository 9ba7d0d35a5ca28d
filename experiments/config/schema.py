"""The typed configuration: what each key may be, checked before any work starts.

The knobs of a model, a task or a criterion are the fields of its own dataclass; here they are only made known to Hydra.
"""

import re
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from hies.errors import HiesError, ParameterError
from hies.evaluation.models import check_fit
from hies.methods import Criterion
from hies.pruning.removal import UNITS
from hies.pruning.selection import Selection

SCHEDULES = ("oneshot", "iterative")
MODES = ("mask", "remove")
WANDB_MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True)
class Sparsity(Selection):
    """Which shares of the heads go, and how.

    ratio: a single one, in the place of ratios. unit: what goes, `head` or `kv_group` (all query heads that share a
    key/value head). mode: whether a model without heads is evaluated with their outputs at zero (`mask`) or with their
    weights cut out of a copy (`remove`); both give the same answers. step: share between two scorings, for
    `schedule: iterative` alone.
    """

    ratios: list[float] = field(default_factory=list)
    ratio: float | None = None
    unit: str = "head"
    mode: str = "mask"
    schedule: str = "oneshot"
    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_ratios()
        if self.unit not in UNITS:
            raise HiesError(f"sparsity.unit is {self.unit!r}; use {' or '.join(UNITS)}.")
        if self.mode not in MODES:
            raise HiesError(f"sparsity.mode is {self.mode!r}; use {' or '.join(MODES)}.")
        if self.schedule not in SCHEDULES:
            raise HiesError(f"sparsity.schedule is {self.schedule!r}; use {' or '.join(SCHEDULES)}.")
        if self.schedule == "iterative" and not 0 < (self.step or 0) <= 1:
            raise HiesError(
                f"sparsity.step is {self.step}; it must be above 0 and at most 1 (sparsity=iterative sets it)."
            )
        if self.schedule == "oneshot" and self.step is not None:
            raise HiesError(f"sparsity.step is {self.step}, but schedule=oneshot scores once; use sparsity=iterative.")

    def _set_ratios(self) -> None:
        given = self.ratios if self.ratio is None else [self.ratio]
        object.__setattr__(self, "ratios", sorted(set(given)))
        name = "sparsity.ratios has" if self.ratio is None else "sparsity.ratio is"
        for ratio in self.ratios:
            if not 0 <= ratio <= 1:
                raise HiesError(f"{name} {ratio}; a ratio lies between 0 (keep all heads) and 1 (none).")
        if not self.ratios:
            raise HiesError("sparsity.ratios is empty; give at least one ratio, as in sparsity.ratios=[0.1,0.3].")

    @property
    def knobs(self) -> dict[str, Any]:
        """What the masks depend on, by name; the default unit is left out, so that older runs keep their ids."""
        left_out = {"ratio", "mode", *(["unit"] if self.unit == "head" else [])}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True)
class Calibration:
    """size: number of training examples that the heads are scored on."""

    size: int = 32

    def __post_init__(self) -> None:
        if self.size < 1:
            raise HiesError(f"calibration.size is {self.size}; the heads are scored on at least 1 example.")


@dataclass(frozen=True)
class Wandb:
    """mode: `auto` is online where an API key is there, else offline."""

    mode: str = "auto"
    project: str = "hies"

    def __post_init__(self) -> None:
        if self.mode not in WANDB_MODES:
            raise HiesError(f"wandb.mode is {self.mode!r}; use {', '.join(WANDB_MODES)}.")


@dataclass(frozen=True)
class Resources:
    """What a job asks a cluster for (hydra/launcher=submitit_slurm); no part of the result.

    gpus: None asks for none; a job takes one at most. cpus: cores. memory_gb: of the node, not of the GPU.
    minutes: after so many a job is stopped, and goes on in a new place of the queue.
    """

    gpus: int | None = None
    cpus: int = 4
    memory_gb: int = 16
    minutes: int = 240

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                none = " (null for none)" if name == "gpus" else ""
                raise HiesError(f"resources.{name} is {value}; it must be at least 1{none}.")


@dataclass(frozen=True)
class Config:
    """One job. name: the experiment, a folder of `results_dir`. data_root: local copies of Hub data sets.

    out: the folder that experiments.prune writes a pruned model to.
    """

    # Any, since a typed field of a frozen dataclass could not be overridden; each group's own schema checks its values.
    model: Any = MISSING  # Model
    task: Any = MISSING  # Task
    criterion: Any = MISSING  # Criterion
    sparsity: Any = MISSING  # Sparsity
    calibration: Calibration = field(default_factory=Calibration)
    wandb: Wandb = field(default_factory=Wandb)
    resources: Resources = field(default_factory=Resources)
    seed: int = 0
    name: str = "single"
    results_dir: str = "results"
    out: str | None = None
    cache_dir: str = "cache"
    data_root: str | None = "${oc.env:HIES_DATA,null}"
    device: str = "auto"
    force: bool = False


def to_config(node: Any) -> Config:
    """Returns the composed configuration as checked dataclasses.

    Raises:
        HiesError: a value that its option cannot take; the message names the option.
    """
    names = {option.name for option in fields(Config)}
    if added := [key for key in node if key not in names]:
        raise _no_option(added[0])
    config = Config(**{name: _converted(node, name) for name in names})
    if not 0 <= config.seed < 2**32:
        raise ParameterError("seed", config.seed, "it must be between 0 and 4294967295")
    if not re.fullmatch(r"\w[\w.-]*", config.name):
        raise ParameterError("name", config.name, "use letters, digits, dots, dashes and underscores")
    if config.data_root is not None and not Path(config.data_root).is_dir():
        raise ParameterError("data_root", config.data_root, "name a folder that holds the data sets")
    check_fit(config.model, config.task)
    _check_own_selection(config)
    return config


def _converted(node: Any, name: str) -> Any:
    """Returns a value, or a group as its dataclass; its parameters are named as the options that they are."""
    if not OmegaConf.is_config(node[name]):
        return node[name]
    try:
        return OmegaConf.to_object(node[name])
    except FrozenInstanceError as error:
        raise _no_option(str(error).split("'")[1]) from None
    except ParameterError as error:
        raise error.renamed(f"{name}.{error.name}") from None


def _no_option(name: str) -> HiesError:
    return HiesError(f"{name!r} is no option here; leave out the plus sign and check its name.")


def _check_own_selection(config: Config) -> None:
    """A criterion that has its own way to remove takes ratios from the sparsity group and nothing else."""
    if isinstance(config.criterion, Criterion) and not config.criterion.selects:
        return
    usual = Sparsity(ratios=config.sparsity.ratios)
    for name in ("unit", "schedule", "scope", "min_heads_per_layer"):
        if (value := getattr(config.sparsity, name)) != (default := getattr(usual, name)):
            way = f"criterion={config.criterion.name} has its own way to remove; leave it at {default!r}"
            raise ParameterError(f"sparsity.{name}", value, way)
