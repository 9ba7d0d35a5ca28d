"""Quality and stability of every task and their mean against the ratio (after figure 4 of the paper)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator

from analysis import choice, labels, style
from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.figures.curves import MAPPING, METRICS, PANELS, draw_panel
from analysis.registry import figure

COLUMNS = 5
CRITERIA = ("his", "ad", "ae", "l2", "random")  # beside the curves of HIES


@figure(
    "tasks",
    about="Quality and stability against the ratio, a panel for every task and one for their mean.",
    needs="rows of at least two tasks at a pruned ratio",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """Two blocks of panels, quality above stability, each ending with the mean over tasks."""
    tasks = labels.ordered_tasks(rows["task"])
    if len(tasks) < 2 or not (rows["ratio"] > 0).any():
        raise Unavailable("it takes at least two tasks with rows of a pruned ratio")
    rows = rows[rows["curve"].isin(shown_curves(rows))]
    canvas, blocks = style.small_multiples(len(tasks) + 1, COLUMNS, height=1.95, lines=len(PANELS))
    for block, column in zip(blocks, PANELS, strict=True):
        _block(block, rows, tasks, column)
    _legend(blocks[0])
    style.headline(canvas, f"{rows['model'].iloc[0]}: quality (above) and stability (below)", _caption(rows, tasks))
    return [axes for block in blocks for axes in block]


def shown_curves(rows: pd.DataFrame) -> list[str]:
    """HIES with its preferred alpha and with alpha = auto, and the plainest curve of every other criterion."""
    chosen = [choice.plainest(rows, "hies"), choice.with_word(rows, "auto")]
    chosen += [choice.plainest(rows, criterion) for criterion in CRITERIA]
    return [curve for curve in dict.fromkeys(chosen) if curve is not None]


def mean_over_tasks(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Curve, seed, ratio and the mean of `column` over tasks, only where every task of `rows` has a number."""
    wide = rows.pivot_table(index=["curve", "seed", "ratio"], columns="task", values=column, dropna=False)
    whole = wide.reindex(columns=sorted(rows["task"].unique())).dropna()
    return whole.mean(axis=1).rename(column).reset_index()


def _block(block: list[Axes], rows: pd.DataFrame, tasks: list[str], column: str) -> None:
    """One measure: a panel a task, then the mean."""
    looks = style.smaller(style.looks(rows))
    mean = mean_over_tasks(rows, column)
    for axes, task in zip(block, [*tasks, None], strict=True):
        points = mean if task is None else rows[rows["task"] == task]
        draw_panel(axes, points, column, looks)
        if task is not None and column == "quality":
            first = points.iloc[0]
            told = f"{METRICS.get(first['metric'], first['metric'])}, n = {first['examples']:,}"
            axes.set_title(told, loc="right", fontsize=8, fontweight="normal", color=style.MUTED)
        title = "Mean over tasks" if task is None else labels.task_name(task)
        axes.set_title(title, fontsize=9.5)
        axes.tick_params(labelsize=8.5, labelbottom=True)
        axes.xaxis.set_major_locator(MultipleLocator(20))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    style.outer_labels(block, COLUMNS, "heads removed (%)", PANELS[column])


def _legend(block: list[Axes]) -> None:
    """Beside the last panel: in the free place after it, if there is one."""
    handles, names = block[0].get_legend_handles_labels()
    names = [style.wrapped(name) for name in names]
    legend = block[-1].legend(handles, names, loc="center left", bbox_to_anchor=(1.1, 0.5), fontsize=8.5)
    legend.set_in_layout(len(block) % COLUMNS == 0)


def _caption(rows: pd.DataFrame, tasks: list[str]) -> str:
    text = (
        f"{caption(rows)}. n: examples of the report split. The mean is over all {len(tasks)} tasks, and absent where "
    )
    text += f"one of them has no number. Line: mean over seeds; band: 95 % bootstrap interval. {MAPPING}."
    return text
