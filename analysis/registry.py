"""The list of figures and tables, and their files. A new one is a decorated function in `figures/` or `tables/`.

A figure is a function of a frame that returns its axes, a table one that returns a `Table`; both sit under a
decorator that gives name and description. It needs no entry in a list.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.data import rows
from analysis.data.answers import with_measure
from analysis.errors import Unavailable
from analysis.text.labels import SETTING, in_short
from analysis.text.measures import MEASURE_OF, TEMPERED, is_loss, measured
from hies.errors import printable
from hies.runs.folders import warn_of_rows

LONGEST_FILE_NAME = 200  # characters of a file's name; a file system may take no more than 255
ENTITIES = str.maketrans({"|": "&#124;", "<": "&lt;", ">": "&gt;"})
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what begins one
OF_MODEL = ("experiment", "model")
OF_TASK = tuple(SETTING)
Load = Callable[[Path, str | None], pd.DataFrame]  # (results folder, experiment or None for all) -> rows
Make = Callable[..., Any]  # rows of one output -> axes or a Table


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
    make: Make
    load: Load = rows.load

    @property
    def takes_measures(self) -> bool:
        """Whether it can show other measures than those of itself."""
        return "measures" in inspect.signature(self.make).parameters

    @property
    def shows(self) -> tuple[str, ...]:
        """The measures that it shows where none are named; empty where it takes none."""
        return tuple(inspect.signature(self.make).parameters["measures"].default) if self.takes_measures else ()

    def write(self, rows: pd.DataFrame, out: Path, measures: Sequence[str] = ()) -> tuple[Any, list[Path]]:
        """Builds it from the rows of one group and writes it in its two formats; returns it and the files.

        The same rows give the same bytes. Other `measures` than those it shows otherwise are part of the files' names.

        Raises:
            Unavailable: the rows do not allow it.
        """
        made = self.make(rows, **({"measures": measures} if measures else {}))
        folder = out / f"{self.kind}s"
        folder.mkdir(parents=True, exist_ok=True)
        name = "__".join(
            ["_".join([self.name, *measures]), *(_part_of_name(rows[column].iloc[0]) for column in self.per)]
        )
        name = in_short(name, LONGEST_FILE_NAME)
        return made, (_save_figure if self.kind == "figure" else _save_table)(made, folder / name)


def _part_of_name(value: object) -> str:
    """A value as a part of a file's name: without a slash, and without the two underscores that separate parts."""
    return re.sub("^_|_$|_(?=_)", "%5F", quote(str(value), safe=""))


_ENTRIES: dict[str, Entry] = {}


def _registered(
    kind: str, name: str, about: str, needs: str, per: tuple[str, ...] = OF_MODEL, load: Load = rows.load
) -> Callable[[Make], Make]:
    """Registers what it decorates under a name, to be drawn in the house style wherever it is called from."""

    def register(make: Make) -> Make:
        @wraps(make)
        def styled(frame: pd.DataFrame, **options: Any) -> Any:
            for measure in options.get("measures", ()):
                frame = with_measure(frame, measure)
            if "measures" in options:
                options["measures"] = numbered(frame, options["measures"])
            with mpl.rc_context(style.RC):
                return make(frame, **options)

        if name in _ENTRIES:
            raise ValueError(f"two figures or tables are named {name}")
        _ENTRIES[name] = Entry(name, kind, about, needs, per, styled, load)
        return styled

    return register


def numbered(frame: pd.DataFrame, measures: Sequence[str]) -> tuple[str, ...]:
    """Returns the measures that some row of a pruned model has a number in; says of each other that it is left out.

    Raises:
        Unavailable: none of them.
    """
    there = measured(frame, measures)
    for measure in measures:
        if measure in there:
            continue
        words = MEASURE_OF[measure].words
        lacking = " (generated answers have none, nor have runs of before it was measured)" if is_loss(measure) else ""
        lacking = " (tasks of two classes alone have one)" if measure == TEMPERED else lacking
        lack = f"no row of a pruned ratio has a {words}{lacking}"
        if not there:
            raise Unavailable(lack)
        warn_of_rows(f"{words} is left out: {lack}.")
    return there


figure = partial(_registered, "figure")  # decorates a function of a frame that returns its axes
table = partial(_registered, "table")  # decorates a function of a frame that returns a `Table`


def entries() -> dict[str, Entry]:
    """Returns all figures, then all tables, by name."""
    for package in ("figures", "tables"):
        parent = importlib.import_module(f"analysis.{package}")
        for module in pkgutil.iter_modules(parent.__path__):
            importlib.import_module(f"analysis.{package}.{module.name}")
    return dict(sorted(_ENTRIES.items(), key=lambda item: (item[1].kind, item[0])))


def _save_figure(axes: list[Axes], stem: Path) -> list[Path]:
    """Without a date in the files."""
    canvas = axes[0].get_figure(root=True)
    assert isinstance(canvas, Figure)
    png, pdf = Path(f"{stem}.png"), Path(f"{stem}.pdf")
    with mpl.rc_context(style.RC):
        canvas.savefig(png)
        canvas.set_layout_engine("none")  # laid out by now: doing it again would only take time
        canvas.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]


def _save_table(table: Table, stem: Path) -> list[Path]:
    """Markdown for readers, CSV with the numbers."""
    markdown, csv = Path(f"{stem}.md"), Path(f"{stem}.csv")
    body = _texts(table.shown, _as_markdown).to_markdown(index=False, disable_numparse=True)
    markdown.write_text(f"{body}\n\n{_as_markdown(table.caption)}\n", encoding="utf-8")
    _texts(table.data, _as_cell).to_csv(csv, index=False, lineterminator="\n", float_format="%.6g")
    return [markdown, csv]


def _texts(frame: pd.DataFrame, escaped: Callable[[str], str]) -> pd.DataFrame:
    """A frame whose texts, column names among them, are escaped; they may come from rows of anywhere."""
    return frame.map(lambda value: escaped(value) if isinstance(value, str) else value).rename(columns=escaped)


def _as_markdown(text: str) -> str:
    """A text as Markdown shows it: no border of a cell, no HTML, no link and no picture."""
    return printable(text).translate(ENTITIES).replace("](", "]&#40;")


def _as_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
