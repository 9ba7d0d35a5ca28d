"""The list of figures and tables. A new one is a decorated function in a file of `figures/` or `tables/`, no more.

A figure is a function of a frame that returns its axes, a table one that returns a `Table`; both sit under a
decorator that gives name and description. The file is found by being there.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.data import rows
from analysis.text.labels import SETTING

OF_MODEL = ("experiment", "model")
Load = Callable[[Path, str | None], pd.DataFrame]  # (results folder, experiment or None for all) -> rows


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        shown: texts for readers, to Markdown.
        data: the numbers, tidy, to CSV.
        caption: what they were made from.
    """

    shown: pd.DataFrame
    data: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Entry:
    """A registered figure or table.

    Attributes:
        name: by which it is built, and the beginning of its files' names.
        kind: "figure" or "table".
        about: one sentence.
        needs: which rows it needs.
        per: columns of which each value has an output; they are the rest of its name.
        make: builds it from the rows of one output.
        load: reads the rows from the results folder.
    """

    name: str
    kind: str
    about: str
    needs: str
    per: tuple[str, ...]
    make: Callable[..., Any]
    load: Load = rows.load


_ENTRIES: dict[str, Entry] = {}


def figure(
    name: str, about: str, needs: str, per: tuple[str, ...] = tuple(SETTING), load: Load = rows.load
) -> Callable[[Callable[..., list[Axes]]], Callable[..., list[Axes]]]:
    """Registers a figure; it draws in the house style wherever it is called from."""

    def register(draw: Callable[..., list[Axes]]) -> Callable[..., list[Axes]]:
        @wraps(draw)
        def styled(frame: pd.DataFrame, **options: Any) -> list[Axes]:
            with mpl.rc_context(style.RC):
                return draw(frame, **options)

        _add(Entry(name, "figure", about, needs, per, styled, load))
        return styled

    return register


def table(
    name: str, about: str, needs: str, per: tuple[str, ...] = tuple(SETTING), load: Load = rows.load
) -> Callable[[Callable[..., Table]], Callable[..., Table]]:
    """Registers a table."""

    def register(make: Callable[..., Table]) -> Callable[..., Table]:
        _add(Entry(name, "table", about, needs, per, make, load))
        return make

    return register


def entries() -> dict[str, Entry]:
    """Returns all figures, then all tables, by name."""
    for package in ("figures", "tables"):
        parent = importlib.import_module(f"analysis.{package}")
        for module in pkgutil.iter_modules(parent.__path__):
            importlib.import_module(f"analysis.{package}.{module.name}")
    return dict(sorted(_ENTRIES.items(), key=lambda item: (item[1].kind, item[0])))


def _add(entry: Entry) -> None:
    if entry.name in _ENTRIES:
        raise ValueError(f"two figures or tables are named {entry.name}")
    _ENTRIES[entry.name] = entry
