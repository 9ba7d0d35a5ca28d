"""Quality and stability against ratio, one line a curve (figures 4, 10 and 11 of the paper)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.errors import Unavailable
from analysis.registry import OF_TASK, figure
from analysis.stats.intervals import summarise
from analysis.text.captions import caption, heading, interval_words, removed_words
from analysis.text.labels import UNPRUNED, metric_name
from analysis.text.measures import IN_PERCENT, MEASURE_OF, axis_label, notes

SAME_LEVEL = 1e-3  # a share: what another machine's rounding may change
CORRELATIONS = ("matthews", "pearson")
MAPPED_NOTE = "Matthews and Pearson correlations are mapped from [-1, 1] to 0 to 100 %"


@figure(
    "curves",
    about="Quality and stability against the ratio, one line a criterion, with intervals over draws.",
    needs="rows of at least one pruned ratio",
    per=OF_TASK,
)
def draw_curves(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> list[Axes]:
    """Draws a panel a measure for one model and task; a point that some draws leave undefined is hollow."""
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are only rows of the unpruned model")
    canvas = style.new_figure(2 + 4 * len(measures), 4.4)
    panels = list(canvas.subplots(1, len(measures), sharex=True, squeeze=False).flat)
    for axes, measure in zip(panels, measures, strict=True):
        draw_panel(axes, rows, measure, style.looks(rows))
        axes.set(xlabel=removed_words(rows), ylabel=axis_label(measure, rows))
        apart = ":\n" if len(measures) > 2 else ": "  # titles of narrow panels would meet
        axes.set_title(f"{MEASURE_OF[measure].words.capitalize()}{apart}{_meaning(measure, rows)}")
    style.legend_beside(canvas, panels[-1:])  # stability is defined where quality is not
    style.headline(canvas, heading(rows), _caption(rows, measures))
    return panels


def _meaning(measure: str, rows: pd.DataFrame) -> str:
    """What a measure is, for the title of its panel."""
    if measure == "quality":
        return ", ".join(metric_name(name) for name in sorted(rows["metric"].unique()))
    return "agreement with the unpruned model" if measure == "stability" else "lower is better"


def draw_panel(
    axes: Axes, rows: pd.DataFrame, column: str, looks: dict[str, dict[str, Any]], nothing: str = "undefined"
) -> None:
    """Draws a line for each curve of `looks` that has rows, with its band over draws, and the unpruned model's level.

    Curves of other data or checkpoints start at levels of their own, none of which is drawn then.

    Where no row has a number for `column`, the panel says `nothing`.
    """
    points = summarise(rows, column, ["curve", "ratio"]).sort_values("ratio", kind="stable")
    for curve, look in looks.items():
        if (points["curve"] == curve).any():
            _line(axes, points[points["curve"] == curve], curve, look)
    if points["mean"].isna().all():
        axes.text(0.5, 0.5, nothing, transform=axes.transAxes, ha="center", va="center", color=style.MUTED)
        axes.set_ylim(0, 100)
    levels = rows[rows["ratio"] == 0].groupby("curve")[column].mean().dropna()
    if len(levels) and np.ptp(levels) <= SAME_LEVEL * abs(levels).max():
        axes.axhline(levels.mean(), color=style.INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2, label=UNPRUNED)
    axes.grid(axis="y")


def _line(axes: Axes, points: pd.DataFrame, curve: str, look: dict[str, Any]) -> None:
    x = 100 * points["ratio"]
    axes.plot(x, points["mean"], label=curve, markeredgecolor="white", markeredgewidth=0.5, **look)
    if look["color"] != style.REST:
        axes.fill_between(x, points["low"], points["high"], color=look["color"], alpha=0.16, linewidth=0)
    partial = points[(points["n"] < points["seeds"].max()) & (points["n"] > 0)]
    hollow = {**look, "linestyle": "none", "zorder": 5}
    axes.plot(100 * partial["ratio"], partial["mean"], markerfacecolor="white", **hollow)


def _caption(rows: pd.DataFrame, measures: Sequence[str]) -> str:
    text = caption(rows)
    if rows["seed"].nunique() > 1:
        text += f". Line: mean over draws; band: {interval_words(rows)}"
    if rows[[*measures]].isna().to_numpy().any():
        text += ". Hollow or absent marker: undefined for some or all draws"
    if "quality" in measures and rows["metric"].isin(CORRELATIONS).any():
        text += f". {MAPPED_NOTE}"
    return f"{text}.{style.rest_note(rows)}{notes(measures, rows)}"
