"""Alpha sensitivity: the best, the median and the worst alpha by weighted area (figure 12 of the paper)."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import choice, labels, style
from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.figures.curves import draw_panel
from analysis.registry import figure

COLUMNS = 4
HIES = style.LOOKS["hies"]
LOOKS: dict[str, dict[str, Any]] = {
    "best": {"color": HIES[0], "marker": HIES[1], "linestyle": "-", "linewidth": 2.4, "zorder": 4},
    "median": {"color": style.mixed(HIES[0], 0.35), "marker": HIES[1], "linestyle": style.DASHES[1], "zorder": 4},
    "worst": {"color": style.mixed(HIES[0], 0.6), "marker": HIES[1], "linestyle": style.DASHES[2], "zorder": 4},
}


@figure(
    "figure12",
    about="Quality against the ratio for the best, the median and the worst alpha of HIES, a panel for every task.",
    needs="rows of hies with at least three numbers for alpha, at the same ratios",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """A panel for each task with three alphas; HIS beside them where the rows hold it."""
    fixed = choice.fixed_alphas(rows)
    tasks = [
        task for task in labels.ordered_tasks(rows["task"]) if fixed.loc[fixed["task"] == task, "alpha"].nunique() > 2
    ]
    if not tasks:
        raise Unavailable("no task has rows of hies with three numbers for alpha and with a quality")
    canvas, (panels,) = style.small_multiples(len(tasks), COLUMNS, height=2.7)
    for axes, task in zip(panels, tasks, strict=True):
        _panel(axes, fixed[fixed["task"] == task], rows[rows["task"] == task])
        axes.set_title(labels.task_name(task), pad=34)
    style.outer_labels(panels, COLUMNS, "heads removed (%)", "quality (%)")
    model = rows["model"].iloc[0]
    style.headline(canvas, f"{model}: the best, the median and the worst alpha of HIES", _caption(fixed, rows))
    return panels


def weighted_areas(rows: pd.DataFrame) -> pd.Series:
    """Weighted area under the quality curve of each alpha in percent, mean over seeds, the best first.

    wAUC = sum_r r q(r) / sum_r r over the pruned ratios that all seeds of all alphas have; quality that is undefined
    counts as 0, the worst. Of equal alphas the larger comes first.
    """
    pruned = rows[rows["ratio"] > 0].fillna({"quality": 0.0})
    wide = pruned.pivot(index=["alpha", "seed"], columns="ratio", values="quality").dropna(axis=1)
    ratios = wide.columns.to_numpy(dtype=float)
    areas = (wide * ratios).sum(axis=1) / ratios.sum()
    by_alpha = areas.groupby("alpha").mean().sort_index(ascending=False)
    return by_alpha.sort_values(ascending=False, kind="stable")


def _panel(axes: Axes, fixed: pd.DataFrame, task: pd.DataFrame) -> None:
    areas = weighted_areas(fixed)
    places = {"best": 0, "median": len(areas) // 2, "worst": len(areas) - 1}
    symbol = labels.ALPHA
    names = {name: f"{name} {symbol} = {areas.index[place]:g}" for name, place in places.items()}
    shown = [fixed[fixed["alpha"] == areas.index[place]].assign(curve=names[name]) for name, place in places.items()]
    looks = {names[name]: look for name, look in LOOKS.items()}
    if (his := choice.plainest(task, "his")) is not None:
        shown.append(task[task["curve"] == his].assign(curve="HIS"))
        looks["HIS"] = style.looks(shown[-1])["HIS"]
    draw_panel(axes, pd.concat(shown), "quality", looks)
    handles, told = axes.get_legend_handles_labels()
    where: Any = {"loc": "lower left", "bbox_to_anchor": (-0.04, 1), "borderaxespad": 0}
    size: Any = {"fontsize": 8, "handlelength": 1.6, "handletextpad": 0.4, "columnspacing": 0.8}
    count = len(looks)  # the unpruned level is in the caption
    axes.legend(handles[:count], told[:count], ncols=2, **where, **size).set_in_layout(False)


def _caption(fixed: pd.DataFrame, rows: pd.DataFrame) -> str:
    text = (
        f"{caption(fixed)}. By weighted area under the quality curve, wAUC = sum of r q(r) / sum of r over the ratios "
    )
    text += "r: our reading, in which the weight of a ratio is the ratio itself. Line: mean over seeds; band: 95 % "
    text += "bootstrap interval; dashed: unpruned. Ranked on the report split itself, so the best is optimistic."
    if fixed["quality"].isna().any():
        text += " Undefined quality counts as 0, the worst, and is not drawn."
    if not (rows["criterion"] == "his").any():
        text += " HIS is not among these rows."
    return text
