"""Quality against alpha of HIES, one line a ratio (beside figure 12 of the paper)."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import choice, labels, style
from analysis.captions import caption, percent
from analysis.errors import Unavailable
from analysis.registry import figure
from analysis.statistics import summarise

COLUMNS = 4
MARKERS = "osD^v<>"


@figure(
    "alphas",
    about="Quality of HIES against alpha, one line a ratio, a panel for every task.",
    needs="rows of hies with at least three numbers for alpha, at a pruned ratio",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """A panel for each task; the alphas stand at equal distances, as in a grid that is fine at its top end."""
    fixed = choice.fixed_alphas(rows)
    fixed = fixed[fixed["ratio"] > 0]
    tasks = [
        task for task in labels.ordered_tasks(rows["task"]) if fixed.loc[fixed["task"] == task, "alpha"].nunique() > 2
    ]
    if not tasks:
        raise Unavailable("no task has rows of hies with three numbers for alpha and with a quality")
    looks = _looks(sorted(fixed["ratio"].unique()))
    canvas, (panels,) = style.small_multiples(len(tasks), COLUMNS, height=2.4)
    for axes, task in zip(panels, tasks, strict=True):
        _panel(axes, fixed[fixed["task"] == task], looks, sorted(fixed["alpha"].unique()))
        axes.set_title(labels.task_name(task))
    style.outer_labels(panels, COLUMNS, labels.ALPHA, "quality (%)")
    handles, names = panels[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside right center", title="heads removed")
    text = f"{caption(fixed)}. Line: mean over seeds; band: 95 % bootstrap interval; alphas at equal distances."
    if fixed["quality"].isna().any():
        text += " A gap: quality is undefined for all seeds."
    style.headline(canvas, f"{rows['model'].iloc[0]}: quality of HIES against {labels.ALPHA}", text)
    return panels


def _looks(ratios: list[float]) -> dict[float, dict[str, Any]]:
    """Light to dark with the ratio, a marker for each."""
    shades = mpl.colormaps["cividis_r"](np.linspace(0.12, 1, len(ratios)))
    return {
        ratio: {"color": tuple(shade), "marker": MARKERS[i % len(MARKERS)], "label": percent(ratio)}
        for i, (ratio, shade) in enumerate(zip(ratios, shades, strict=True))
    }


def _panel(axes: Axes, rows: pd.DataFrame, looks: dict[float, dict[str, Any]], alphas: list[float]) -> None:
    points = summarise(rows, "quality", ["ratio", "alpha"]).set_index("alpha")
    x = range(len(alphas))
    for ratio, look in looks.items():
        line = points[points["ratio"] == ratio].reindex(alphas)
        axes.plot(x, line["mean"], markersize=4.5, **look)
        axes.fill_between(x, line["low"], line["high"], color=look["color"], alpha=0.16, linewidth=0)
    axes.set_xticks(x, [f"{alpha:g}" for alpha in alphas], rotation=90, fontsize=8)
    axes.grid(axis="y")
