"""The text of --help: what a command does, and each option in words, from the docstrings of the dataclasses."""

import inspect
import re
import textwrap
from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any

from experiments.config.messages import choices_of
from experiments.config.schema import CalibrationSet, Config, Resources, Sparsity, Wandb
from hies.evaluation.models import Model
from hies.methods import METHODS
from hies.tasks import TASKS
from hies.tasks.base import Task

HELP_WIDTH = 110  # characters of a line
GROUPS = {"model": Model, "sparsity": Sparsity, "calibration": CalibrationSet, "wandb": Wandb, "resources": Resources}
FLAGS = (
    "Hydra's own flags: -m (a job for every combination of values), --cfg job (the composed configuration),\n"
    "--config-dir DIR (configurations of your own), --hydra-help; hydra.verbose=true shows what libraries log.\n"
    "A method or task of your own: criterion=custom criterion._target_=MODULE.CLASS, or task; docs/your-method.md."
)


def help_text(description: str) -> str:
    """Returns the help of a command.

    Args:
        description: what the command does, with an example.
    """
    parts = [description.strip(), f"Options, as NAME=VALUE:\n\n{_options('', Config, {*GROUPS, 'task', 'criterion'})}"]
    parts += [f"experiment: a grid with its settings\n{_choices('experiment')}"]
    for group, kind in GROUPS.items():
        parts.append(f"{group}: {_summary(kind)}\n{_choices(group)}{_options(f'{group}.', kind)}")
    parts.append(f"task: {_summary(Task)}\n{_choices('task')}{_options('task.', Task)}")
    shared = {option.name for option in fields(Task)}
    parts += [f"task={name}: {_summary(kind)}\n{_options('task.', kind, shared)}" for name, kind in TASKS.items()]
    parts.append(f"criterion: what decides which heads are removed\n{_choices('criterion')}".rstrip())
    parts += [f"criterion={name}: {_summary(kind)}\n{_options('criterion.', kind)}" for name, kind in METHODS.items()]
    return "\n\n".join(part.rstrip() for part in [*parts, FLAGS] if part)


def _choices(group: str) -> str:
    names = choices_of(group)
    text = textwrap.fill(", ".join(names), HELP_WIDTH, initial_indent="  one of ", subsequent_indent="    ")
    return f"{text}\n" if names else ""


def _options(prefix: str, kind: Any, known: Collection[str] = ()) -> str:
    """A line for each field that is not known yet: its option, its default, its meaning."""
    words = _attributes_of(kind)
    lines = []
    for option in fields(kind):
        if option.name not in known and option.name in words:
            default = "" if option.default is MISSING else f"={_value(option.default)}"
            text = f"  {prefix}{option.name}{default}  {words[option.name]}"
            lines.append(textwrap.fill(text, HELP_WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False))
    return "\n".join(lines) + "\n" if lines else ""


def _value(default: Any) -> str:
    if default is None:
        return "null"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _summary(kind: type) -> str:
    """The first paragraph of a docstring, on one line."""
    paragraph = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return re.sub(r"\s+", " ", paragraph)


def _attributes_of(kind: type) -> dict[str, str]:
    """Name -> meaning of the `Attributes:` list of a class and of those that it builds on."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        for name, text in re.findall(r"^    (\w+): ((?:.*\n?)(?:^     +.*\n?)*)", section[1] if section else "", re.M):
            found[name] = re.sub(r"\s+", " ", text).strip()
    return found
