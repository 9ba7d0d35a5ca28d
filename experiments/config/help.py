"""The text of --help: what a command does, and each option in words, from the docstrings of the dataclasses."""

import inspect
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
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
    "--config-dir DIR (configurations of your own), --hydra-help; hydra.verbose=true shows what libraries log."
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
    parts += [_options_of_kind("task", name, kind, Task) for name, kind in TASKS.items()]
    parts.append(f"criterion: what decides which heads are removed\n{_choices('criterion')}".rstrip())
    parts += [_options_of_kind("criterion", name, kind, None) for name, kind in METHODS.items()]
    return "\n\n".join(part.rstrip() for part in [*parts, FLAGS] if part)


def _options_of_kind(group: str, name: str, kind: type, base: type | None) -> str:
    known = {option.name for option in fields(base)} if base is not None and is_dataclass(base) else set()
    return f"{group}={name}: {_summary(kind)}\n{_options(f'{group}.', kind, known)}"


def _choices(group: str) -> str:
    names = choices_of(group)
    text = textwrap.fill(", ".join(names), HELP_WIDTH, initial_indent="  one of ", subsequent_indent="    ")
    return f"{text}\n" if names else ""


def _options(prefix: str, kind: Any, known: set[str] | frozenset[str] = frozenset()) -> str:
    """Returns a line for each field: its option, its default, its meaning."""
    words = attributes_of(kind)
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
    """Returns the first paragraph of a docstring, on one line."""
    paragraph = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return re.sub(r"\s+", " ", paragraph)


def attributes_of(kind: type) -> dict[str, str]:
    """Returns name -> meaning of the `Attributes:` list of a class and of those that it builds on."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        for name, text in re.findall(r"^    (\w+): ((?:.*\n?)(?:^     +.*\n?)*)", section[1] if section else "", re.M):
            found[name] = re.sub(r"\s+", " ", text).strip()
    return found
