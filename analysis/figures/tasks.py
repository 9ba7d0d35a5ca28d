"""Quality and stability of every task and their mean against the ratio (after figure 4 of the paper)."""

import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator

from analysis import choice, labels, style
from analysis.captions import caption, removed_words
from analysis.errors import Unavailable
from analysis.figures.curves import MAPPED, MAPPING, METRICS, PANELS, draw_panel
from analysis.registry import figure

COLUMNS = 5
ROW = 7  # so many panels and fewer stand in one row, stability right below quality, as in the paper
PANEL, BESIDE, LEAST = 1.8, 2.5, 7.0  # inches of such a panel, of the legend beside, and of such a figure at least
CHARACTERS_PER_INCH = 12.5  # of the words above and below a panel
CRITERIA = ("his", "ad", "ae", "l2", "random")  # beside the curves of HIES
PAPER: dict[str, Any] = {
    "linestyle": "none", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.1, "zorder": 6,
}  # fmt: skip


@figure(
    "tasks",
    about="Quality and stability against the ratio, a panel for every task and one for their mean.",
    needs="rows of at least two tasks at a pruned ratio",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """Two blocks of panels, quality above stability, each ending with the mean over tasks."""
    if rows["task"].nunique() < 2 or not (rows["ratio"] > 0).any():
        raise Unavailable("it takes at least two tasks with rows of a pruned ratio")
    title = f"{rows['model'].iloc[0]}: quality (above) and stability (below)"
    return draw_tasks(rows[rows["curve"].isin(shown_curves(rows))], title, COLUMNS)


def draw_tasks(
    rows: pd.DataFrame, title: str, columns: int | None = None, printed: pd.DataFrame | None = None, note: str = ""
) -> list[Axes]:
    """Two blocks of panels, quality above stability: a panel for each task and, of several, one for their mean.

    columns: panels in a row; without it all of them, if they fit. printed: the paper's quality, with the columns task,
    criterion, ratio and percent. note: what the caption says besides.
    """
    tasks = labels.ordered_tasks(rows["task"])
    count = len(tasks) + (len(tasks) > 1)
    width = style.WIDTH
    if columns is None and count <= ROW:
        columns, width = count, max(LEAST, count * PANEL + BESIDE)
    columns = min(columns or COLUMNS, count)
    full = count % columns == 0  # no free place for the legend
    canvas, blocks = style.small_multiples(count, columns, height=1.95, lines=len(PANELS), width=width)
    room = int(CHARACTERS_PER_INCH * (width - BESIDE * full) / columns)
    below = textwrap.fill(removed_words(rows), room)
    for block, column in zip(blocks, PANELS, strict=True):
        _block(block, rows, tasks, column)
        style.outer_labels(block, columns, below, PANELS[column])
    _tell_metrics(blocks[0], tasks, rows.drop_duplicates("task").set_index("task"), room)
    if printed is not None:
        _beside(dict(zip(tasks, blocks[0], strict=False)), printed)
    _legend(blocks, full)
    style.headline(canvas, title, _caption(rows, tasks) + note)
    return [axes for block in blocks for axes in block]


def shown_curves(rows: pd.DataFrame, criteria: Iterable[str] = CRITERIA) -> list[str]:
    """HIES with its preferred alpha and with alpha = auto, and the plainest curve of every other criterion.

    Of a method with and without tuning the plainest of both.
    """
    chosen = [choice.plainest(rows, "hies"), choice.with_word(rows, "auto")]
    for criterion in criteria:
        mine = rows[rows["criterion"] == criterion]
        forms = [part for _, part in mine.groupby("tune", dropna=False)] if "tune" in mine else [mine]
        chosen += [choice.plainest(part, criterion) for part in forms]
    return [curve for curve in dict.fromkeys(chosen) if curve is not None]


def mean_over_tasks(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Curve, seed, ratio and the mean of `column` over tasks, only where every task of `rows` has a number."""
    wide = rows.pivot_table(index=["curve", "seed", "ratio"], columns="task", values=column, dropna=False)
    whole = wide.reindex(columns=sorted(rows["task"].unique())).dropna()
    return whole.mean(axis=1).rename(column).reset_index()


def _block(block: list[Axes], rows: pd.DataFrame, tasks: list[str], column: str) -> None:
    """One measure: a panel a task, then the mean."""
    looks = style.smaller(style.looks(rows))
    last = 100 * rows["ratio"].max()
    for axes, task in zip(block, [*tasks, None], strict=False):
        points = mean_over_tasks(rows, column) if task is None else rows[rows["task"] == task]
        draw_panel(axes, points, column, looks)
        axes.set_title("Mean over tasks" if task is None else labels.task_name(task), fontsize=9.5)
        axes.tick_params(labelsize=8.5, labelbottom=True)
        axes.set_xlim(-0.05 * last, 1.05 * last)
        axes.xaxis.set_major_locator(MultipleLocator(20))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _tell_metrics(block: list[Axes], tasks: list[str], first: pd.DataFrame, room: int) -> None:
    """Metric and number of examples at the right above each task's panel.

    first: a row of each task. room: characters above a panel; where one is too long, all stand below the names.
    """
    told = [f"{METRICS.get(row.metric, row.metric)}, n = {row.examples:,}" for row in first.loc[tasks].itertuples()]
    names = map(labels.task_name, tasks)
    if any(len(name) + len(words) > room for name, words in zip(names, told, strict=True)):
        for axes in block:
            axes.set_title(f"{axes.get_title(loc='left')}\n", fontsize=9.5)
    for axes, words in zip(block, told, strict=False):
        axes.set_title(words, loc="right", fontsize=8, fontweight="normal", color=style.MUTED)


def _beside(panels: dict[str, Axes], printed: pd.DataFrame) -> None:
    """The paper's quality as hollow markers, in the colour of the criterion."""
    for (task, criterion), part in printed.groupby(["task", "criterion"], sort=False):
        if axes := panels.get(str(task)):
            color, marker = style.LOOKS[str(criterion)]
            told = f"{labels.criterion_name(str(criterion))}, paper"
            axes.plot(100 * part["ratio"], part["percent"], marker=marker, markeredgecolor=color, label=told, **PAPER)


def _legend(blocks: list[list[Axes]], beside: bool) -> None:
    """Beside all panels, or in the free place after the last one of the upper block."""
    last, panels = blocks[0][-1], [axes for block in blocks for axes in block]
    named = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [style.wrapped(name) for name in named]
    if beside:
        canvas = last.get_figure(root=True)
        assert canvas is not None
        canvas.legend(named.values(), names, loc="outside right center", fontsize=8.5)
        return
    place: Any = {"loc": "center left", "bbox_to_anchor": (1.1, 0.5), "fontsize": 8.5}
    last.legend(named.values(), names, **place).set_in_layout(False)


def _caption(rows: pd.DataFrame, tasks: list[str]) -> str:
    text = f"{caption(rows)}. n: examples of the report split."
    if len(tasks) > 1:
        text += f" The mean is over all {len(tasks)} tasks, and absent where one of them has no number."
    text += " Line: mean over seeds; band: 95 % bootstrap interval."
    return text + (f" {MAPPING}." if rows["metric"].isin(MAPPED).any() else "")
