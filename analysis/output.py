"""Figures and tables to files; the same rows give the same bytes."""

from pathlib import Path
from urllib.parse import quote

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.registry import Entry, Table


def write_entry(entry: Entry, rows: pd.DataFrame, out: Path) -> list[Path]:
    """Builds one figure or table from the rows of one group and writes it in its two formats; returns the files.

    Raises:
        Unavailable: the rows do not allow it.
    """
    made = entry.make(rows)
    folder = out / f"{entry.kind}s"
    folder.mkdir(parents=True, exist_ok=True)
    name = "__".join([entry.name, *(quote(str(rows[column].iloc[0]), safe="") for column in entry.per)])
    return save_figure(made, folder / name) if entry.kind == "figure" else save_table(made, folder / name)


def save_figure(axes: list[Axes], stem: Path) -> list[Path]:
    """Writes `stem`.png and `stem`.pdf, without a date in them; returns both."""
    figure = axes[0].get_figure(root=True)
    assert isinstance(figure, Figure)
    png, pdf = Path(f"{stem}.png"), Path(f"{stem}.pdf")
    with mpl.rc_context(style.RC):
        figure.savefig(png)
        figure.set_layout_engine("none")  # laid out by now: doing it again would only take time
        figure.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]


def save_table(table: Table, stem: Path) -> list[Path]:
    """Writes `stem`.md for readers and `stem`.csv with the numbers; returns both."""
    markdown, csv = Path(f"{stem}.md"), Path(f"{stem}.csv")
    body = table.shown.to_markdown(index=False, disable_numparse=True)
    markdown.write_text(f"{body}\n\n{table.caption}\n", encoding="utf-8")
    table.data.to_csv(csv, index=False, lineterminator="\n", float_format="%.6g")
    return [markdown, csv]
