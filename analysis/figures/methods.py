"""Every method against every other: quality and stability by the ratio, and by what that saves."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.errors import Unavailable
from analysis.figures.curves import draw_panel
from analysis.registry import figure
from analysis.stats.boards import mean_of_tasks
from analysis.stats.intervals import summarise
from analysis.tables.measures import percent_of_dense
from analysis.text.captions import caption, interval_words
from analysis.text.labels import model_name
from analysis.text.measures import IN_PERCENT, averaged, axis_label, notes

FLOPS_LEFT = "flops left"  # a column: FLOPs in percent of those of the run's unpruned model


@figure(
    "methods",
    about="Quality and stability, mean over tasks, against the share of attention removed and against the FLOPs left.",
    needs="rows of at least two criteria at a pruned ratio, with FLOPs",
)
def draw_methods(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> list[Axes]:
    """Draws one measure above the other; the same points on the left by ratio, on the right by the FLOPs left."""
    rows = rows.assign(**{FLOPS_LEFT: percent_of_dense(rows, "flops")})
    if rows["curve"].nunique() < 2 or not ((rows["ratio"] > 0) & rows[FLOPS_LEFT].notna()).any():
        raise Unavailable("it takes two criteria with rows of a pruned ratio and their FLOPs")
    canvas = style.new_figure(style.FIGURE_WIDTH, 1.6 + 3 * len(measures))
    grid = canvas.subplots(len(measures), 2, sharex="col", sharey="row", squeeze=False)
    looks = style.smaller(style.looks(rows))
    for (by_ratio, by_cost), column in zip(grid, measures, strict=True):
        used = averaged(rows, column)  # the same tasks for both axes
        mean, costs = mean_of_tasks(used, column), mean_of_tasks(used, FLOPS_LEFT)
        cost = costs.groupby(["curve", "ratio"])[FLOPS_LEFT].mean()
        draw_panel(by_ratio, mean, column, looks)
        points = summarise(mean, column, ["curve", "ratio"]).sort_values("ratio", kind="stable")
        for curve, part in points.groupby("curve"):
            x = [cost.get((curve, ratio), np.nan) for ratio in part["ratio"]]
            by_cost.plot(x, part["mean"], markeredgecolor="white", markeredgewidth=0.5, **looks[str(curve)])
        by_cost.grid(axis="y")
        by_ratio.set_ylabel(axis_label(column, used))
    grid[-1][0].set_xlabel("attention weights removed (%)")
    grid[-1][1].set_xlabel("FLOPs left (% of the dense model)")
    grid[-1][1].invert_xaxis()
    style.legend_beside(canvas, grid[0][:1])
    tasks = rows["task"].nunique()
    text = f"{caption(rows)}. Mean over {tasks} task{'s' * (tasks > 1)}, absent where one has no number; band: "
    text += f"{interval_words(rows)}. FLOPs: of one example of full length."
    text += style.rest_note(rows) + notes(measures, rows)
    style.headline(canvas, f"{model_name(rows['model'].iloc[0])}: what each method keeps, and what it saves", text)
    return [axes for line in grid for axes in line]
