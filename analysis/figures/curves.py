"""Quality and stability against ratio, one line a curve (figures 4, 10 and 11 of the paper)."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.labels import ordered_curves
from analysis.registry import figure
from analysis.statistics import summarise

PANELS = {"quality": "quality (%)", "stability": "stability (%)"}


@figure(
    "curves",
    about="Quality and stability against the ratio, one line a criterion, with intervals over seeds.",
    needs="rows of at least one pruned ratio",
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """Both panels for one model and task; a point that some seeds leave undefined is hollow."""
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are only rows of the unpruned model")
    canvas = style.new_figure(10, 4.4)
    panels = list(canvas.subplots(1, 2, sharex=True))
    for axes, (column, words) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, rows, column)
        axes.set(xlabel="heads removed (%)", ylabel=words)
    panels[0].set_title(f"Quality: {', '.join(sorted(rows['metric'].unique()))}")
    panels[1].set_title("Stability: agreement with the unpruned model")
    handles, names = panels[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside right center")
    style.headline(canvas, f"{rows['model'].iloc[0]} on {rows['task'].iloc[0]}", _caption(rows))
    return panels


def _panel(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    points = summarise(rows, column, ["curve", "ratio"]).sort_values("ratio", kind="stable")
    looks = style.looks(rows)
    for curve in ordered_curves(rows):
        _line(axes, points[points["curve"] == curve], curve, looks[curve])
    unpruned = rows.loc[rows["ratio"] == 0, column].mean()
    if pd.notna(unpruned):
        axes.axhline(unpruned, color=style.INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2, label="unpruned")
    axes.grid(axis="y")


def _line(axes: Axes, points: pd.DataFrame, curve: str, look: dict[str, Any]) -> None:
    x = 100 * points["ratio"]
    axes.plot(x, points["mean"], label=curve, markeredgecolor="white", markeredgewidth=0.5, **look)
    axes.fill_between(x, points["low"], points["high"], color=look["color"], alpha=0.16, linewidth=0)
    partial = points[(points["n"] < points["seeds"].max()) & (points["n"] > 0)]
    hollow = {**look, "linestyle": "none", "zorder": 5}
    axes.plot(100 * partial["ratio"], partial["mean"], markerfacecolor="white", **hollow)


def _caption(rows: pd.DataFrame) -> str:
    text = caption(rows)
    if rows["seed"].nunique() > 1:
        text += ". Line: mean; band: 95 % bootstrap interval over seeds"
    if rows[list(PANELS)].isna().to_numpy().any():
        text += ". Hollow or absent marker: undefined for some or all seeds"
    return text + "."
