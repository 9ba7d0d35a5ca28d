"""Entropy and its sign by layer: mean AE, and its rank correlation with HIS within the layer."""

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from analysis import style
from analysis.registry import OF_MODEL, figure
from analysis.stats.signs import layer_statistics
from analysis.text.captions import caption
from analysis.text.labels import model_name, ordered_tasks, task_name

PANELS = {"ae": "mean AE of the layer's heads", "rho": "rank correlation of AE with HIS in the layer"}


@figure(
    "depth",
    about="Mean entropy of each layer, and whether focused or diffuse heads matter more there, a line a task.",
    needs="rows and score files of his",
    per=OF_MODEL,
)
def draw_depth(rows: pd.DataFrame) -> list[Axes]:
    """Draws two panels over the layers; below 0 focused heads matter more, as the paper has it."""
    data = layer_statistics(rows)
    tasks = ordered_tasks(data["task"])
    canvas = style.new_figure(style.FIGURE_WIDTH, 4.2)
    panels = list(canvas.subplots(1, len(PANELS), sharex=True))
    for axes, (column, words) in zip(panels, PANELS.items(), strict=True):
        for place, task in enumerate(tasks):
            own = data[data["task"] == task]
            color = colormaps["viridis"](place / max(len(tasks) - 1, 1) * 0.92)
            axes.plot(own["layer"] + 1, own[column], marker="o", color=color, label=task_name(task))
        axes.set(xlabel="layer", title=words)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
    panels[1].axhline(0, color=style.INK, linewidth=1, zorder=2)
    panels[1].set_ylim(-1.05, 1.05)
    style.legend_beside(canvas, panels[:1])
    text = f"{caption(rows[rows['criterion'] == 'his'])}. Mean over draws. "
    text += "Right: below 0 the heads that matter more are focused, as the paper has it; above 0 diffuse."
    style.headline(canvas, f"{model_name(rows['model'].iloc[0])}: entropy by depth", text)
    return panels
