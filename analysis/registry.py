"""The list of figures and tables. A new one is a new file in `figures/` or `tables/`, and nothing else.

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

from analysis import labels, rows, style

SETTING = tuple(labels.SETTING)
Load = Callable[[Path, str | None], pd.DataFrame]  # (results folder, experiment or None for all) -> rows


@dataclass(frozen=True)
class Table:
    """A table for readers (`shown`, texts, to Markdown) and its numbers (`data`, tidy, to CSV)."""

    shown: pd.DataFrame
    data: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Entry:
    """A registered figure or table."""

    name: str
    kind: str  # "figure" or "table"
    about: str  # one sentence
    needs: str  # which rows it needs
    per: tuple[str, ...]  # one output for each value of these columns; they are the output's name
    make: Callable[..., Any]
    load: Load = rows.load  # reads the rows from the results folder


_ENTRIES: dict[str, Entry] = {}


def figure(
    name: str, about: str, needs: str, per: tuple[str, ...] = SETTING, load: Load = rows.load
) -> Callable[[Callable[..., list[Axes]]], Callable[..., list[Axes]]]:
    """Register a figure; it draws in the house style wherever it is called from."""

    def register(draw: Callable[..., list[Axes]]) -> Callable[..., list[Axes]]:
        @wraps(draw)
        def styled(frame: pd.DataFrame, **options: Any) -> list[Axes]:
            with mpl.rc_context(style.RC):
                return draw(frame, **options)

        _add(Entry(name, "figure", about, needs, per, styled, load))
        return styled

    return register


def table(
    name: str, about: str, needs: str, per: tuple[str, ...] = SETTING, load: Load = rows.load
) -> Callable[[Callable[..., Table]], Callable[..., Table]]:
    """Register a table."""

    def register(make: Callable[..., Table]) -> Callable[..., Table]:
        _add(Entry(name, "table", about, needs, per, make, load))
        return make

    return register


def entries() -> dict[str, Entry]:
    """All figures, then all tables, by name."""
    for package in ("figures", "tables"):
        parent = importlib.import_module(f"analysis.{package}")
        for module in pkgutil.iter_modules(parent.__path__):
            importlib.import_module(f"analysis.{package}.{module.name}")
    return dict(sorted(_ENTRIES.items(), key=lambda item: (item[1].kind, item[0])))


def _add(entry: Entry) -> None:
    if entry.name in _ENTRIES:
        raise ValueError(f"two figures or tables are named {entry.name}")
    _ENTRIES[entry.name] = entry
