"""What a command line declares: the jobs of its grid, known before the first of them runs."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from experiments.sweep.job import Job
from experiments.sweep.launch import Here, Launcher
from hies.errors import HiesError, ParameterError
from hies.runs.grid import write_grid

SWEPT = ("seed", "criterion.alpha", "calibration.size")  # values that grids vary, set without composing anew
FINETUNE = "model.finetune"


@dataclass(frozen=True)
class Declared:
    """The jobs of a command line.

    Attributes:
        jobs: all of them, finished ones included.
        sweep: they are a grid.
        whole: the grid is the experiment's own, and nothing on the command line takes a part of it.
        launcher: does jobs, here or in other processes.
    """

    jobs: list[Job]
    sweep: bool
    whole: bool
    launcher: Launcher | Here


def jobs_of_sweep(arguments: Sequence[str], params: Mapping[str, str], launcher: Launcher | Here) -> Declared:
    """Returns every job of a sweep; Hydra must be initialised.

    Args:
        arguments: overrides of the command line.
        params: the grid of an experiment, key -> values separated by commas; overrides come after it.
        launcher: of the command line.

    Raises:
        HiesError: values that no list names, jobs with several folders for their rows, parts of one curve, or one run
            several times.
    """
    parser = OverridesParser.create()
    words = parser.parse_overrides(list(arguments))
    grid = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    composer = _Composer()
    chosen = _product([*grid, *words])
    jobs = [composer.job(overrides) for overrides in chosen]
    _check_one_folder(jobs)
    _check_one_curve(jobs)
    _check_one_run(jobs, chosen)
    own = {_key(word) for word in grid}
    whole = bool(params) and not any(word.is_sweep_override() or _key(word) in own for word in words)
    return Declared(jobs, sweep=True, whole=whole, launcher=launcher)


def _product(overrides: Sequence[Override]) -> list[list[str]]:
    """Returns the overrides of every job of a grid; of two with the same key the later one counts."""
    choices: dict[str, list[str]] = {}
    for override in overrides:
        name = override.get_key_element()
        if not override.is_sweep_override():
            choices[_key(override)] = [f"{name}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep() and not isinstance(override.value(), Glob):
            values = dict.fromkeys(override.sweep_string_iterator())  # `seed=0,0` is one job
            choices[_key(override)] = [f"{name}={value}" for value in values]
        else:
            raise HiesError(f"{override.input_line} is no list of values; separate them by commas.")
    return [list(chosen) for chosen in itertools.product(*choices.values())]


def _key(override: Override) -> str:
    """The option that an override sets, with or without a plus sign."""
    return override.get_key_element().lstrip("+")


def _check_one_folder(jobs: Sequence[Job]) -> None:
    """Refuses jobs whose rows go to several folders: the grid, and all that is printed, is of one."""
    folders = dict.fromkeys(f"{job.config.results_dir}/{job.config.name}" for job in jobs)
    if len(folders) > 1:
        first, second, *_ = folders
        raise HiesError(
            f"The rows of these jobs would go to {len(folders)} folders, {first} and {second} among them; give a "
            "command for each name and results_dir."
        )


def _check_one_curve(jobs: Sequence[Job]) -> None:
    """Refuses jobs that differ in ratios alone: a job is a whole curve, and of two of one curve one would be drawn."""
    curves: dict[str, set[tuple[float, ...]]] = {}
    for job in jobs:
        sparsity = job.config.sparsity
        others = repr((replace(job.config, sparsity=None), {**sparsity.knobs, "ratios": None}, sparsity.mode))
        curves.setdefault(others, set()).add(tuple(sparsity.ratios))
    for parts in curves.values():
        if len(parts) > 1:
            together = ",".join(map(str, sorted({ratio for part in parts for ratio in part})))
            raise HiesError(
                "These jobs differ in nothing but ratios, and a job is a curve over all of its ratios; give them as "
                f"sparsity.ratios=[{together}]."
            )


def _check_one_run(jobs: Sequence[Job], chosen: Sequence[Sequence[str]]) -> None:
    """Refuses jobs that differ in what makes no difference: they have one row file, which each would show as its own.

    Args:
        jobs: of a grid.
        chosen: the overrides of each, the same options in the same order.
    """
    runs: dict[str, list[int]] = {}
    for place in _nearly_alike(jobs):
        with contextlib.suppress(HiesError):  # of data that cannot be read, which whoever needs them says
            runs.setdefault(jobs[place].run_id, []).append(place)
    for run_id, places in runs.items():
        values = zip(*(chosen[place] for place in places), strict=True)
        given = [words[0] for words in values if len(set(words)) > 1]
        if not given:  # a single job, or the same one given twice
            continue
        names = " and ".join(word.partition("=")[0].lstrip("+") for word in given)
        make, value = ("makes", "one value") if len(given) == 1 else ("make", "one value of each")
        raise HiesError(
            f"Jobs of one run id, {run_id}, differ in nothing but {names}, which {make} no difference to the result; "
            f"give {value}, as in {' '.join(given)}."
        )


def _nearly_alike(jobs: Sequence[Job]) -> list[int]:
    """Returns the places of the jobs that may be one run; of most grids none, and so no data are read for it."""
    groups: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        names = job.config.model.name, job.config.task.name, job.config.task.max_examples
        groups.setdefault(repr((names, job.config.calibration, job.choices)), []).append(place)
    return [place for places in groups.values() if len(places) > 1 for place in places]


def check_finetuning(jobs: Sequence[Job]) -> None:
    """Refuses words of fine-tuning that do nothing, since the task has a value of its own."""
    for job in jobs:
        words = [word for word in job.overrides if word.lstrip("+").startswith(FINETUNE)]
        if not words:
            continue
        model, task = job.config.model, job.config.task
        unused = model.finetuning_of_tasks(task)
        for name in (name for word in words for name in _settings_of(word) if name in unused):
            value, option = getattr(model.finetune, name), f"task.finetune.{name}"
            given = (word.partition("=")[0] for word in job.overrides)  # one that was added keeps its plus sign
            option = next((key for key in given if key.lstrip("+") == option), option)
            expected = f"task={task.name} sets its own, so give {option}={value}"
            raise ParameterError(f"{FINETUNE}.{name}", value, expected)


@lru_cache
def _settings_of(word: str) -> tuple[str, ...]:
    """Returns the settings of fine-tuning in a word: `model.finetune.epochs=1`, or `model.finetune={epochs: 1}`."""
    override = OverridesParser.create().parse_override(word)
    name, value = override.key_or_group.removeprefix(FINETUNE).lstrip("."), override.value()
    return (name,) if name else tuple(value if isinstance(value, dict) else ())


def leave_grid(declared: Declared) -> None:
    """Leaves the declared jobs beside the rows, so that analysis can name the missing ones.

    A part of an experiment, or a sweep made up on the command line, adds to the grid that is there; a whole one takes
    the place of what was declared for the same models.
    """
    replaced = {job.config.model.name for job in declared.jobs} if declared.whole else set()
    write_grid(declared.jobs[0].path.parent, (job.describe() for job in declared.jobs), replaced)


class _Composer:
    """Composes the jobs of a sweep: Hydra does it once for each choice of groups; then values alone are set."""

    def __init__(self) -> None:
        self._parse = lru_cache(maxsize=None)(OverridesParser.create().parse_override)
        self._composed: dict[tuple[tuple[str, ...], tuple[str, ...]], DictConfig] = {}

    def job(self, overrides: list[str]) -> Job:
        """Returns the job that these overrides make, none of them a sweep."""
        values = [override for override in map(self._parse, overrides) if _sets_a_value(override)]
        late = {str(override.input_line) for override in values}
        chosen = tuple(override for override in overrides if override not in late)
        # Jobs that share a node set the same keys, so that none of them sees a value of another.
        shared = chosen, tuple(override.key_or_group for override in values)
        if shared not in self._composed:
            self._composed[shared] = compose("config", list(chosen))
        node = self._composed[shared]
        for override in values:
            OmegaConf.update(node, override.key_or_group, override.value())
        return Job.of(node, overrides)


def _sets_a_value(override: Override) -> bool:
    """Tells whether an override sets one number or word of the job itself: no group, nothing of Hydra's or added."""
    plain = override.type == OverrideType.CHANGE and isinstance(override.value(), int | float | str)
    return plain and override.key_or_group in SWEPT
