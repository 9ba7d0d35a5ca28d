"""Which heads HIS and HIES remove at 30 to 50 % (figure 3 of the paper)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from analysis import choice, labels, style
from analysis.captions import caption, percent
from analysis.errors import Unavailable
from analysis.figures.heatmaps import heat_axes
from analysis.registry import figure
from analysis.scores import Scores, load_scores

RATIOS = (0.3, 0.4, 0.5)
LEGEND = 0.48  # inches from the cells down to the legend
# What becomes of a head: removed by neither, by HIS alone, by HIES alone, by both.
FATES = ("neither", "only HIS", "only HIES", "both")
COLORS = ("#EFEFEF", style.LOOKS["his"][0], style.LOOKS["hies"][0], "#4D4D4D")


@figure(
    "figure3",
    about="Which heads HIS and HIES remove at 30, 40 and 50 %, one grid a ratio.",
    needs="rows and score files of his and hies with one seed in common, at the ratio 0.3, 0.4 or 0.5",
)
def draw(rows: pd.DataFrame, ratios: tuple[float, ...] = RATIOS) -> list[Axes]:
    """Site x head for each ratio; the lowest seed that both criteria have."""
    his, hies = common_runs(rows)
    found = [ratio for ratio in ratios if all(np.isclose(run["ratio"], ratio).any() for run in (his, hies))]
    if not found:
        raise Unavailable(f"HIS and HIES have no ratio in common of {', '.join(map(str, ratios))}")
    scores = load_scores(his.iloc[0])
    canvas = style.new_figure(3.2 * len(found) + 0.6, 3.0 * len(scores.sites) / max(scores.heads) + 2.3)
    panels = list(canvas.subplots(1, len(found), sharey=True, squeeze=False)[0])
    for axes, ratio in zip(panels, found, strict=True):
        _panel(axes, scores, at(his, ratio), at(hies, ratio))
    panels[0].set_ylabel("site")
    task = labels.task_name(rows["task"].iloc[0])
    text = f"{caption(pd.concat([his, hies]))}. {hies['curve'].iloc[0]}. Site 0 is the first attention module; "
    text += "in brackets: how many heads are removed so."
    style.headline(canvas, f"Heads that HIS and HIES remove: {rows['model'].iloc[0]} on {task}", text)
    return panels


def common_runs(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one run of HIS and one of HIES: the plainest curves, the lowest seed that both have.

    Raises:
        Unavailable: there is no such seed.
    """
    his, hies = (rows[rows["curve"] == choice.plainest(rows, criterion)] for criterion in ("his", "hies"))
    seeds = set(his["seed"]) & set(hies["seed"])
    if not seeds:
        raise Unavailable("HIS and HIES have no seed in common")
    return his[his["seed"] == min(seeds)], hies[hies["seed"] == min(seeds)]


def at(run: pd.DataFrame, ratio: float) -> dict[str, Any]:
    """The row of a run at a ratio."""
    return {str(key): value for key, value in run[np.isclose(run["ratio"], ratio)].iloc[0].items()}


def fates(scores: Scores, his: dict[str, list[int]], hies: dict[str, list[int]]) -> np.ndarray:
    """For each head the index of its fate in FATES, from the masks of both: [sites, most heads], NaN for no head."""
    fate = scores.removed(his) + 2.0 * scores.removed(hies)
    fate[np.arange(max(scores.heads)) >= np.array(scores.heads)[:, None]] = np.nan
    return fate


def _panel(axes: Axes, scores: Scores, his: dict[str, Any], hies: dict[str, Any]) -> None:
    fate = fates(scores, his["mask"], hies["mask"])
    look: Any = {"cmap": ListedColormap(COLORS), "vmin": 0, "vmax": 3, "edgecolors": "white", "linewidth": 1}
    axes.pcolormesh(np.ma.masked_invalid(fate), **look)
    heat_axes(axes, *fate.shape)
    axes.set_xlabel("head")
    alpha = hies.get("alpha_used")
    told = "" if alpha is None or pd.isna(alpha) else f"HIES: {labels.ALPHA} = {alpha:g}"
    axes.set_title(f"{percent(his['ratio'])} removed", fontsize=10)
    axes.set_title(told, loc="right", fontsize=8.5, fontweight="normal")
    handles = [
        Patch(facecolor=color, edgecolor=style.MUTED, linewidth=0.4, label=f"{name} ({int((fate == i).sum())})")
        for i, (name, color) in enumerate(zip(FATES, COLORS, strict=True))
    ]
    order = [handles[0], handles[3], handles[1], handles[2]]
    place = ScaledTranslation(0, -LEGEND, axes.figure.dpi_scale_trans)
    below: Any = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": axes.transAxes + place}
    axes.legend(handles=order, ncols=2, fontsize=9, handlelength=1, columnspacing=1.5, borderaxespad=0, **below)
