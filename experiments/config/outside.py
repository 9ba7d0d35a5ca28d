"""Methods and tasks from outside this repository: the class that `_target_` names, and what may be wrong with it.

`_target_` imports code, so it is taken from the command line and from folders that the command line names alone.
"""

import copy
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hies.errors import HiesError, ParameterError, brief, first_line
from hies.evaluation.calibration import CalibrationSource
from hies.evaluation.models import MODALITIES
from hies.methods import METHODS, Method
from hies.pruning.selection import Selection
from hies.runs.quality import PERCENT, SQUARED
from hies.runs.schema import ROW_KEYS
from hies.scoring.statistics import outside_sources
from hies.storage import source_of, sources_of
from hies.tasks import TASKS, Task

CUSTOM, TARGET = "custom", "_target_"
CONTRACTS: dict[str, type] = {"criterion": Method, "task": Task}
BUILT_ON = {"criterion": "hies.ScoringMethod", "task": "hies.tasks.Task"}  # as people name them
KNOWN: dict[str, Mapping[str, type]] = {"criterion": METHODS, "task": TASKS}
ENTRY_POINTS = {"criterion": "hies.methods", "task": "hies.tasks"}
SCALE = (0, 5)  # of scores whose stability is known
# Names that an option of a method cannot have: those of keys of rows, where a value of the job would take its place.
RESERVED = {
    *(ROW_KEYS - {"seed"}),
    *(rule.name for rule in fields(Selection)),
    *(f"calibration_{one.name}" for one in fields(CalibrationSource)),
}
_imported: set[str] = set()  # outermost modules of classes from outside


def choices(group: str) -> dict[str, str]:
    """Returns the choices of a group that stand for classes from outside: name -> `_target_`.

    They are `custom`, whose target is given besides, and the entry points of installed packages, none of which is
    imported before it is chosen.
    """
    installed = {point.name: point.value.replace(":", ".") for point in entry_points(group=ENTRY_POINTS[group])}
    return {CUSTOM: "???", **{name: target for name, target in installed.items() if name not in KNOWN[group]}}


def node(target: str) -> DictConfig:
    """Returns the configuration of a class from outside: it takes any option, since the class is not imported yet."""
    return OmegaConf.create({TARGET: target}, flags={"struct": False})


def typed(config: DictConfig, group: str) -> Any:
    """Returns a group of a composed configuration; one with a `_target_` as the options of the class that it names.

    Raises:
        HiesError: no such class, or one that cannot stand for the group; an option that it has not, or of another type.
    """
    if group not in CONTRACTS or not OmegaConf.is_dict(config[group]) or TARGET not in [*config[group]]:
        return config[group]
    if OmegaConf.is_missing(config[group], TARGET):
        raise HiesError(f"{group}={CUSTOM} needs a class: give {group}.{TARGET}=MODULE.CLASS.")
    given = copy.deepcopy(config[group])  # it keeps its parent, so that ${seed} is the job's
    OmegaConf.resolve(given)
    kind = imported(group, str(given.pop(TARGET)))
    names = [knob.name for knob in fields(kind) if knob.init]
    if unknown := [name for name in map(str, given) if name not in names]:
        option = f"{group}.{unknown[0]}"
        raise HiesError(f"There is no option {option!r}; {_name(kind)} has {_listed(names)}.")
    if "seed" in names and "seed" not in given:  # as criterion=random: every job draws anew
        given["seed"] = config.seed
    return _filled(group, kind, given)


def source_of_job(config: Any) -> dict[str, str]:
    """Returns, as `source`, which classes from outside a job has, with digests of their code; nothing of others.

    A statistic that comes from another module than its method is there by the digest of that module alone.
    """
    sources = sources_of(type(config.criterion), type(config.task))
    own = source_of(type(config.criterion).__module__)
    sources += [source for source in outside_sources(config.criterion.need) if source != own]
    return {"source": ", ".join(sources)} if sources else {}


def _filled(group: str, kind: type, given: DictConfig) -> DictConfig:
    try:
        filled = OmegaConf.structured(kind)
        OmegaConf.set_readonly(filled, False)
    except OmegaConfBaseException as error:
        what = f"has an option of a type that no command line can give ({first_line(error)})"
        raise HiesError(f"{_name(kind)} {what}.") from None
    for name in map(str, given):
        try:
            filled[name] = given[name]
        except OmegaConfBaseException:
            hint = get_type_hints(kind)[name]
            expected = f"{_name(kind)} takes {getattr(hint, '__name__', hint)}"
            raise ParameterError(f"{group}.{name}", given[name], expected) from None
    if missing := sorted(OmegaConf.missing_keys(filled)):
        raise HiesError(f"{group}.{missing[0]} is missing; {_name(kind)} has no default for it.")
    return filled


def imported(group: str, target: str) -> type:
    """Returns the class of a `_target_`, checked against the contract of its group."""

    def wrong(expected: str) -> ParameterError:
        return ParameterError(f"{group}.{TARGET}", target, expected)

    module, _, name = target.rpartition(".")
    if not module or not all(part.isidentifier() for part in target.split(".")):
        raise wrong("give MODULE.CLASS, a module in the current directory or PYTHONPATH and a class in it")
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise wrong(f"importing {module} failed: there is no module {error.name!r}") from None
        raise wrong(f"there is no module {error.name!r} in the current directory, in PYTHONPATH or installed") from None
    except (Exception, SystemExit) as error:  # whatever code from elsewhere raises
        raise wrong(f"importing {module} failed: {type(error).__name__}: {brief(error)}") from None
    if not inspect.isclass(kind) or not issubclass(kind, CONTRACTS[group]):
        what = f"is no class built on {BUILT_ON[group]}" if inspect.isclass(kind) else "is no class"
        raise wrong(f"{module} has no {name!r}" if kind is None else f"it {what}")
    _check(kind, group, wrong)
    if sources_of(kind):
        _imported.add(module.partition(".")[0])
    return kind


def place_of(error: BaseException) -> str | None:
    """Returns where code from outside raised, or made ours raise, an error: its file and line; None: it had no part."""
    frames = traceback.walk_tb(error.__traceback__)
    places = [(frame, line) for frame, line in frames if frame.f_globals.get("__name__", "").split(".")[0] in _imported]
    return f"{Path(places[-1][0].f_code.co_filename).name}, line {places[-1][1]}" if places else None


def _check(kind: Any, group: str, wrong: Callable[[str], ParameterError]) -> None:
    """Raises ParameterError for a class that does not keep the contract of its group."""
    if kind.__abstractmethods__:
        raise wrong(f"it has no {_listed(sorted(kind.__abstractmethods__))}, which {BUILT_ON[group]} leaves to it")
    name = getattr(kind, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise wrong(f"it needs a name of letters, digits and underscores, as in name = 'mine', and has {name!r}")
    if KNOWN[group].get(name, kind) is not kind:
        raise wrong(f"its name is {name!r}, which {group}={name} has already; call it otherwise")
    knobs = {knob.name for knob in fields(kind)}
    annotated = {name for name, hint in inspect.get_annotations(kind).items() if "ClassVar" not in str(hint)}
    if bare := sorted(annotated - knobs):
        raise wrong(f"its option {bare[0]!r} is none without @dataclass(frozen=True) above the class")
    if group == "criterion" and (clash := sorted(knobs & RESERVED)):
        raise wrong(f"its option {clash[0]!r} has the name of a key of rows; call it otherwise")
    if group == "criterion" and isinstance(getattr(kind, "needs", ()), str):
        raise wrong(f"its needs are a string; write needs = frozenset({{{kind.needs!r}}})")
    if group == "task":
        _check_task(kind, wrong)


def _check_task(kind: Any, wrong: Callable[[str], ParameterError]) -> None:
    for attribute, values in {"modality": MODALITIES, "metric": PERCENT}.items():
        if (value := getattr(kind, attribute, None)) not in values:
            raise wrong(f"its {attribute} is {value!r}; use {' or '.join(values)}")
    if kind.metric in SQUARED and getattr(kind, "scores", None) != SCALE:
        raise wrong(f"its metric is {kind.metric!r}, which takes scores = {SCALE}: of others no stability is known")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
