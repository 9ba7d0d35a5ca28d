"""The typed configuration: what each option may be, checked before any work starts.

The knobs of a model, a task or a criterion are the fields of its own dataclass.
"""

import re
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.options import with_option
from experiments.config.outside import typed
from hies.errors import HiesError, ParameterError, brief, check_choice
from hies.evaluation.calibration import CalibrationSource
from hies.evaluation.models import check_fit, fitted
from hies.pruning.selection import Selection
from hies.runs.folders import NO_EXPERIMENTS

MODES = ("mask", "remove")
WANDB_MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True)
class Sparsity(Selection):
    """Which shares of the heads are removed, and how.

    Attributes:
        ratios: shares of the heads.
        ratio: a single one, in the place of ratios.
        mode: a model without heads is evaluated with their outputs at zero (`mask`) or with their weights cut out of a
            copy (`remove`); both give the same answers.
    """

    ratios: list[float] = field(default_factory=list)
    ratio: float | None = None
    mode: str = "mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_ratios()
        check_choice("mode", self.mode, MODES)

    def _set_ratios(self) -> None:
        name = "ratios" if self.ratio is None else "ratio"
        ratios = self.ratios if self.ratio is None else [self.ratio]
        if not ratios:
            raise ParameterError(name, ratios, "give at least one ratio, as in sparsity.ratios=[0.1,0.3]")
        for ratio in ratios:
            if not 0 <= ratio <= 1:
                raise ParameterError(name, getattr(self, name), "a ratio lies between 0 (keep all heads) and 1 (none)")
        object.__setattr__(self, "ratios", sorted(set(ratios)))

    @property
    def knobs(self) -> dict[str, Any]:
        """What the masks depend on, by name; later rules are left out at their defaults, to keep run ids."""
        left_out = {"ratio", "mode", *(["unit"] if self.unit == "head" else []), *([] if self.plain else ["plain"])}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True)
class CalibrationSet(CalibrationSource):
    """The examples that heads are scored on.

    Attributes:
        size: how many they are.
    """

    size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ParameterError("size", self.size, "heads are scored on at least 1 example")


@dataclass(frozen=True)
class Wandb:
    """Where rows are mirrored to.

    Attributes:
        mode: `auto` (what WANDB_MODE says, else online where an API key is there, else offline), `online`, `offline` or
            `disabled`.
        project: the W&B project.
    """

    mode: str = "auto"
    project: str = "hies"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, WANDB_MODES)


@dataclass(frozen=True)
class Resources:
    """What a job asks a cluster for (hydra/launcher=submitit_slurm); no part of the result.

    Attributes:
        gpus: null asks for none; a job takes one at most.
        cpus: cores.
        memory_gb: memory of the node, not of the GPU.
        minutes: after them a job is stopped, and goes on in a new place of the queue.
    """

    gpus: int | None = None
    cpus: int = 4
    memory_gb: int = 16
    minutes: int = 240

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ParameterError(name, value, "it must be at least 1" + (" (null for none)" * (name == "gpus")))


@dataclass(frozen=True)
class Config:
    """One job.

    Attributes:
        model: a choice of conf/model.
        task: a task.
        criterion: what decides which heads are removed.
        sparsity: a choice of conf/sparsity.
        calibration: the examples that heads are scored on.
        wandb: the mirror of the rows.
        resources: what a job asks a cluster for.
        seed: of the calibration draw and of everything else that is random; a sweep repeats jobs over it.
        name: the experiment, a folder of results_dir.
        results_dir: where rows go.
        out: the folder that experiments.prune writes a pruned model to.
        cache_dir: checkpoints, statistics and answers that jobs share.
        data_root: local copies of Hub data sets; HIES_DATA by default, and null for the Hub itself.
        device: `auto` takes a GPU where there is one; else a name that torch knows.
        force: compute finished jobs again.
    """

    # Any, since a typed field of a frozen dataclass could not be overridden; each group's own schema checks its values.
    model: Any = MISSING  # Model
    task: Any = MISSING  # Task
    criterion: Any = MISSING  # Method
    sparsity: Any = MISSING  # Sparsity
    calibration: CalibrationSet = field(default_factory=CalibrationSet)
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
    config = Config(**{name: _converted(typed(node, name), name) for name in names})
    if not 0 <= config.seed < 2**32:
        raise ParameterError("seed", config.seed, "it must be between 0 and 4294967295")
    if not re.fullmatch(r"\w[\w.-]*", config.name):
        raise ParameterError("name", config.name, "use letters, digits, dots, dashes and underscores")
    if config.name in NO_EXPERIMENTS:
        expected = "that folder of results_dir holds other files than runs; call the experiment otherwise"
        raise ParameterError("name", config.name, expected)
    for option in ("results_dir", "cache_dir"):
        if not getattr(config, option).strip():
            raise ParameterError(option, getattr(config, option), "name a folder (. is the current one)")
    data_root = Path(config.data_root) if config.data_root else None  # HIES_DATA= is none, as without it
    if data_root is not None and not data_root.is_dir():
        raise ParameterError("data_root", config.data_root, "name a folder that holds the data sets")
    try:
        check_fit(config.model, config.task)
        config.calibration.check(config.task)
        config.criterion.check_selection(config.sparsity)
    except ParameterError as error:
        raise with_option(error) from None
    model, task = fitted(config.model, config.task, data_root)
    return replace(config, model=model, task=task, data_root=config.data_root or None)


def _converted(value: Any, path: str) -> Any:
    """Returns a value, or a group as its dataclass; its parameters are named as the options that they are."""
    if not OmegaConf.is_config(value):
        return value
    if OmegaConf.is_dict(value):
        for key in value:
            if not OmegaConf.is_missing(value, key) and is_dataclass(OmegaConf.get_type(value, key)):
                _converted(value[key], f"{path}.{key}")  # before the group that it is in, which would not name it
    try:
        return OmegaConf.to_object(value)
    except FrozenInstanceError as error:
        raise _no_option(str(error).split("'")[1]) from None
    except ParameterError as error:
        raise error.renamed(f"{path}.{error.name}") from None
    except (HiesError, OmegaConfBaseException):
        raise
    except Exception as error:  # whatever a class from outside raises of its options
        raise HiesError(f"The options of {path} are refused: {type(error).__name__}: {brief(error)}.") from None


def _no_option(name: str) -> HiesError:
    return HiesError(f"{name!r} is no option here; leave out the plus sign and check its name.")
