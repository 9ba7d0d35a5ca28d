"""HIS and HIES of every head as bars over site and head (figure 8 of the paper)."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from analysis import choice, labels, style
from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.figures.figure3 import common_runs
from analysis.registry import figure
from analysis.scores import load_scores

PANELS = {"his": "his", "hies": "scores"}  # criterion -> array
ELEVATION, AZIMUTH = 32, -57  # of the viewer, in degrees
BAR = 0.72  # width of a bar, of the unit between two heads


@figure(
    "figure8",
    about="HIS and HIES of every head as 3-D bars over site and head.",
    needs="rows and score files of his and hies with one seed in common",
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """HIS left, HIES right; the lowest seed that both criteria have."""
    runs = dict(zip(PANELS, common_runs(rows), strict=True))
    canvas = style.new_figure(11, 5)
    panels = list(canvas.subplots(1, 2, subplot_kw={"projection": "3d"}))
    for axes, (criterion, array) in zip(panels, PANELS.items(), strict=True):
        run = runs[criterion]
        scores = load_scores(run.iloc[0])
        if array not in scores.values:
            raise Unavailable(f"the score file of {run['run_id'].iloc[0]} has no {array}")
        _bars(axes, scores.rectangle(array))
        alpha = choice.drawn_alpha(run)
        told = "" if alpha is None else f", drawn at {labels.ALPHA} = {alpha:g}"
        axes.set_title(run["curve"].iloc[0] + told, loc="center", y=1.06)
    task = labels.task_name(rows["task"].iloc[0])
    text = f"{caption(pd.concat(list(runs.values())))}. Site 0 is the first attention module. "
    text += "Colour repeats the height; the heads of the lowest bars go first."
    style.headline(canvas, f"Scores of the heads: {rows['model'].iloc[0]} on {task}", text)
    return panels


def _bars(axes: Any, values: np.ndarray) -> None:
    sites, heads = values.shape
    norm = Normalize(min(0, np.nanmin(values)), np.nanmax(values))
    colors = mpl.colormaps["viridis"](norm(values))
    axes.view_init(elev=ELEVATION, azim=AZIMUTH)
    axes.computed_zorder = False  # matplotlib would order faces by their centres, which tall bars get wrong
    for place, (site, head) in enumerate(_back_to_front(np.argwhere(~np.isnan(values)))):
        corner, size = (head - BAR / 2, site - BAR / 2, 0), (BAR, BAR, values[site, head])
        axes.bar3d(*corner, *size, color=colors[site, head], edgecolor="white", linewidth=0.2, zorder=place)
    axes.set_box_aspect((heads, max(sites, heads * 0.6), heads * 0.55), zoom=1.15)
    for axis, count, name in ((axes.xaxis, heads, "head"), (axes.yaxis, sites, "site")):
        axis.set_ticks(range(0, count, max(1, int(np.ceil(count / 7)))))
        axis.set_label_text(name)
    axes.zaxis.set_major_locator(MaxNLocator(4))
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set(facecolor="white", edgecolor=style.REMOVED)
        axis._axinfo["grid"].update(color="#E6E6E6", linewidth=0.6)
    axes.tick_params(labelsize=8.5, pad=0)


def _back_to_front(places: np.ndarray) -> np.ndarray:
    """The (site, head) pairs, those farthest from the viewer first, so that nearer bars hide them."""
    angle = np.radians(AZIMUTH)
    nearness = places[:, 1] * np.cos(angle) + places[:, 0] * np.sin(angle)
    return places[np.argsort(nearness, kind="stable")]
