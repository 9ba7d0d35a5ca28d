"""How much alpha matters: quality against alpha, and the best, median and worst alpha (figure 12 of the paper)."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.errors import Unavailable
from analysis.figures.curves import draw_panel
from analysis.registry import figure
from analysis.stats.intervals import summarise
from analysis.text import choice, labels
from analysis.text.captions import caption, interval_words, lost_tasks, percent
from analysis.text.labels import ALPHA_SIGN
from hies.runs.quality import weighted_area

IN_A_ROW = 4
MARKERS = "osD^v<>"
FEW = "fewer than three alphas, or no quality"
MARKER = style.LOOKS["hies"][1]
RANK_LOOKS: dict[str, dict[str, Any]] = {
    f"best {ALPHA_SIGN}": {"color": style.LOOKS["hies"][0], "linestyle": "-", "linewidth": 2.4},
    f"median {ALPHA_SIGN}": {"color": style.SPARE[0][0], "linestyle": style.DASHES[1]},
    f"worst {ALPHA_SIGN}": {"color": style.LOOKS["random"][0], "linestyle": style.DASHES[2]},
}


@figure(
    "alphas",
    about="Quality of HIES against alpha, one line a ratio, a panel for every task.",
    needs="rows of hies with at least three numbers for alpha, at a pruned ratio",
)
def draw_alphas(rows: pd.DataFrame) -> list[Axes]:
    """Draws a panel for each task; the alphas stand at equal distances, as in a grid that is fine at its top end."""
    fixed = choice.fixed_alphas(rows)
    fixed = fixed[fixed["ratio"] > 0]
    tasks = _with_three_alphas(fixed)
    looks = _looks(sorted(fixed["ratio"].unique()))
    canvas, (panels,) = style.small_multiples(len(tasks), IN_A_ROW, height=2.4)
    for axes, task in zip(panels, tasks, strict=True):
        _against_alpha(axes, fixed[fixed["task"] == task], looks, sorted(fixed["alpha"].unique()))
        axes.set_title(labels.task_name(task))
    style.outer_labels(panels, ALPHA_SIGN, "quality (%)")
    style.legend_beside(canvas, panels, "heads removed")
    text = f"{caption(fixed)}. Line: mean over draws; band: {interval_words(fixed)}; alphas at equal distances."
    if fixed["quality"].isna().any():
        text += " A gap: quality is undefined for all draws."
    text += lost_tasks(rows, tasks, FEW)
    style.headline(canvas, f"{labels.model_name(rows['model'].iloc[0])}: quality of HIES against {ALPHA_SIGN}", text)
    return panels


@figure(
    "figure12",
    about="Quality against the ratio for the best, the median and the worst alpha of HIES, a panel for every task.",
    needs="rows of hies with at least three numbers for alpha, at the same ratios",
)
def draw_figure12(rows: pd.DataFrame) -> list[Axes]:
    """Draws a panel for each task with three alphas; HIS beside them where the rows hold it."""
    fixed = choice.fixed_alphas(rows)
    tasks = _with_three_alphas(fixed)
    canvas, (panels,) = style.small_multiples(len(tasks), IN_A_ROW, height=2.7)
    for axes, task in zip(panels, tasks, strict=True):
        _ranked(axes, fixed[fixed["task"] == task], rows[rows["task"] == task])
        axes.set_title(labels.task_name(task))
    style.outer_labels(panels, "heads removed (%)", "quality (%)")
    style.legend_beside(canvas, panels)
    model = labels.model_name(rows["model"].iloc[0])
    text = (
        f"{caption(fixed)}. By weighted area under the quality curve, wAUC = sum of r q(r) / sum of r over the ratios "
        "r: our reading, in which the weight of a ratio is the ratio itself. Line: mean over draws; band: "
        f"{interval_words(fixed)}. Above each panel the best, the median and the worst alpha. Ranked on the report "
        "split itself, so the best is optimistic."
    )
    if fixed["quality"].isna().any():
        text += " Undefined quality counts as 0, the worst, and is not drawn."
    if not (rows["criterion"] == "his").any():
        text += " HIS is not among these rows."
    text += lost_tasks(rows, tasks, FEW)
    style.headline(canvas, f"{model}: the best, the median and the worst alpha of HIES", text)
    return panels


def weighted_areas(rows: pd.DataFrame) -> pd.Series:
    """Returns wAUC of each alpha in percent, mean over draws, the best first; of equal alphas the larger comes first.

    It is over the pruned ratios that all seeds of all alphas have.

    Raises:
        Unavailable: there is no such ratio.
    """
    pruned = rows[rows["ratio"] > 0].fillna({"quality": 0.0})
    wide = pruned.pivot(index=["alpha", "seed"], columns="ratio", values="quality").dropna(axis=1)
    if wide.empty:
        raise Unavailable(f"the alphas of {labels.task_name(rows['task'].iloc[0])} have no ratio in common")
    areas = pd.Series(weighted_area(wide.to_numpy(), wide.columns.to_numpy(dtype=float)), index=wide.index)
    by_alpha = areas.groupby("alpha").mean().sort_index(ascending=False)
    return by_alpha.sort_values(ascending=False, kind="stable")


def _with_three_alphas(fixed: pd.DataFrame) -> list[str]:
    counts = fixed.groupby("task")["alpha"].nunique()
    tasks = [task for task in labels.ordered_tasks(fixed["task"]) if counts[task] > 2]
    if not tasks:
        raise Unavailable("no task has rows of hies with three numbers for alpha and with a quality")
    return tasks


def _looks(ratios: list[float]) -> dict[float, dict[str, Any]]:
    """Light to dark with the ratio, a marker for each."""
    shades = mpl.colormaps["inferno"](np.linspace(0.65, 0.1, len(ratios)))  # the palest has a contrast of 3
    return {
        ratio: {"color": tuple(shade), "marker": MARKERS[i % len(MARKERS)], "label": percent(ratio)}
        for i, (ratio, shade) in enumerate(zip(ratios, shades, strict=True))
    }


def _against_alpha(axes: Axes, rows: pd.DataFrame, looks: dict[float, dict[str, Any]], alphas: list[float]) -> None:
    points = summarise(rows, "quality", ["ratio", "alpha"]).set_index("alpha")
    x = range(len(alphas))
    for ratio, look in looks.items():
        line = points[points["ratio"] == ratio].reindex(alphas)
        axes.plot(x, line["mean"], markersize=4.5, **look)
        axes.fill_between(x, line["low"], line["high"], color=look["color"], alpha=0.16, linewidth=0)
    axes.set_xticks(x, [f"{alpha:g}" for alpha in alphas], rotation=90, fontsize=8)
    axes.grid(axis="y")


def _ranked(axes: Axes, fixed: pd.DataFrame, task: pd.DataFrame) -> None:
    areas = weighted_areas(fixed)
    alphas = areas.index[[0, len(areas) // 2, -1]]  # the places of RANK_LOOKS
    shown = [fixed[fixed["alpha"] == alpha].assign(curve=name) for name, alpha in zip(RANK_LOOKS, alphas, strict=True)]
    looks = {name: {"marker": MARKER, "zorder": 4, **look} for name, look in RANK_LOOKS.items()}
    if not (his := choice.usual_run(task, "his")).empty:
        shown.append(his.assign(curve="HIS"))
        looks["HIS"] = style.looks(shown[-1])["HIS"]
    draw_panel(axes, pd.concat(shown), "quality", looks)
    named = f"{ALPHA_SIGN} = {', '.join(f'{alpha:g}' for alpha in alphas)}"
    axes.set_title(named, loc="right", fontsize=8, fontweight="normal", color=style.MUTED)
