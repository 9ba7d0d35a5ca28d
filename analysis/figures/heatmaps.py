"""Heat maps site x head of HIS, AE and HIES, removed heads greyed (figures 2c, 7 and 9 of the paper)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.patches import Rectangle

from analysis import choice, style
from analysis.captions import caption, percent
from analysis.errors import Unavailable
from analysis.labels import ALPHA, task_name
from analysis.registry import figure
from analysis.scores import Scores, load_scores

RATIOS = (0.1, 0.3, 0.5, 0.7)
# criterion -> the array that is drawn, and which end of it goes first
COLUMNS = {"his": ("his", "lowest"), "ae": ("ae", "highest"), "hies": ("scores", "lowest")}


@figure(
    "heatmaps",
    about="HIS, AE and HIES of every head, with the heads that each criterion removes greyed.",
    needs="rows and score files of his, ae or hies (of several alphas: per ratio, per task, auto, else nearest 0.5)",
)
def draw(rows: pd.DataFrame, ratios: tuple[float, ...] = RATIOS) -> list[Axes]:
    """All heads in the first line, then one line a ratio; the lowest seed of one model and task."""
    rows = rows[rows["seed"] == rows.loc[rows["criterion"].isin(COLUMNS), "seed"].min()]
    runs = {name: run for name in COLUMNS if not (run := _run(rows, name)).empty}
    lines = [0.0] + [ratio for ratio in ratios if any(np.isclose(run["ratio"], ratio).any() for run in runs.values())]
    if len(lines) == 1:
        raise Unavailable(f"no rows of his, ae or hies at the ratios {', '.join(map(str, ratios))}")
    scores = {name: load_scores(run.iloc[0]) for name, run in runs.items()}
    runs = {name: run for name, run in runs.items() if COLUMNS[name][0] in scores[name].values}
    if not runs:
        raise Unavailable("the score files of his, ae and hies do not hold what it draws of them")
    canvas = style.new_figure(3.1 * len(runs) + 0.5, len(lines) * _height(scores[next(iter(runs))]) + 1.6)
    grid = canvas.subplots(len(lines), len(runs), sharex=True, sharey=True, squeeze=False)
    for column, name in zip(grid.T, runs, strict=True):
        _column(column, name, runs[name], scores[name], lines)
    for axes, ratio in zip(grid[:, 0], lines, strict=True):
        axes.set_ylabel(f"{percent(ratio)} removed\nsite" if ratio else "all heads\nsite")
    text = f"{caption(rows)}. Site 0 is the first attention module. Hatched grey: removed heads."
    if any(choice.drawn_alpha(run) is not None for run in runs.values()):
        text += f" HIES is drawn at the {ALPHA} of the ratio nearest to 50 %; each mask has its own."
    style.headline(
        canvas, f"Scores and removed heads: {rows['model'].iloc[0]} on {task_name(rows['task'].iloc[0])}", text
    )
    return list(grid.flat)


def _run(rows: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """The rows of one job: of several curves of a criterion the plainest."""
    return rows[rows["curve"] == choice.plainest(rows, criterion)]


def _column(column: np.ndarray, criterion: str, run: pd.DataFrame, scores: Scores, lines: list[float]) -> None:
    array, end = COLUMNS[criterion]
    values = scores.rectangle(array)
    # HIS spans orders of magnitude: on a linear scale a few heads would hide all others.
    norm = PowerNorm(0.5, 0, np.nanmax(values)) if array == "his" else Normalize(np.nanmin(values), np.nanmax(values))
    for axes, ratio in zip(column, lines, strict=True):
        mesh = _heat(axes, values, norm)
        _grey(axes, run[np.isclose(run["ratio"], ratio)], scores)
    alpha = choice.drawn_alpha(run)
    told = "" if alpha is None else f"; drawn at {ALPHA} = {alpha:g}"
    column[0].set_title(f"{run['curve'].iloc[0]}\n{end} go first{told}", fontsize=9.5)
    column[-1].set_xlabel("head")
    bar = column[0].figure.colorbar(mesh, ax=list(column), location="bottom", aspect=28, shrink=0.9, pad=0.015)
    bar.outline.set_visible(False)
    ticks = [float(tick) for tick in norm.inverse(np.array([0, 0.5, 1]))]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.set_label(f"{criterion.upper()}{' (square-root scale)' * (array == 'his')}")


def _heat(axes: Axes, values: np.ndarray, norm: Normalize) -> QuadMesh:
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), norm=norm, cmap="viridis", edgecolors="white", linewidth=0.4)
    heat_axes(axes, *values.shape)
    return mesh


def heat_axes(axes: Axes, sites: int, heads: int) -> None:
    """Ticks and limits of a map site x head, the first site at the top, as one reads."""
    _ticks(axes.xaxis, heads)
    _ticks(axes.yaxis, sites)
    axes.set(xlim=(0, heads), ylim=(sites, 0))
    style.plain_box(axes)


def _ticks(axis: Any, count: int) -> None:
    """Numbers in the middle of the cells, thinned out to about six."""
    step = max(1, int(np.ceil(count / 6)))
    axis.set_ticks(np.arange(0, count, step) + 0.5, labels=[str(i) for i in range(0, count, step)])


def _grey(axes: Axes, at_ratio: pd.DataFrame, scores: Scores) -> None:
    if at_ratio.empty:
        sites, heads = len(scores.sites), max(scores.heads)
        axes.text(heads / 2, sites / 2, "no row at this ratio", ha="center", va="center", backgroundcolor="white")
        return
    removed = np.argwhere(scores.removed(at_ratio["mask"].iloc[0]))
    cells = [Rectangle((float(head), float(site)), 1, 1) for site, head in removed]
    look: Any = {"facecolor": style.REMOVED, "edgecolor": "white", "hatchcolor": "#9A9A9A", "hatch": "////"}
    axes.add_collection(PatchCollection(cells, linewidth=0.4, **look))


def _height(scores: Scores) -> float:
    """Inches of one heat map: cells about square, within what fits a page."""
    return float(np.clip(2.6 * len(scores.sites) / max(scores.heads), 1.2, 2.6))
