"""Quality and stability of every task and their mean against the ratio (figures 4, 10, 11 and 13 of the paper)."""

import textwrap
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator

from analysis import paper, style
from analysis.data.chance import at_chance
from analysis.errors import Unavailable
from analysis.figures.curves import CORRELATIONS, MAPPED_NOTE, draw_panel
from analysis.registry import figure
from analysis.stats.boards import mean_of_tasks
from analysis.text import choice, labels
from analysis.text.captions import absent_tasks, caption, interval_words, lost_tasks, removed_words
from analysis.text.measures import IN_PERCENT, MEASURE_OF, NORMALIZED, averaged, axis_label, is_loss, notes, unit

TASKS_IN_ROW = 5
ONE_ROW = 7  # so many panels and fewer stand in one row, stability right below quality, as in the paper
PANEL_WIDTH, LEGEND_WIDTH, LEAST_WIDTH = 1.8, 2.5, 7.0  # inches of such a panel, of the legend, of a figure at least
TITLE_CHARACTERS = 12.5  # in an inch above and below a panel
TASK_CRITERIA = ("his", "ad", "ae", "l2", "random")  # beside the curves of HIES
PRINTED_LOOK: dict[str, Any] = {
    "linestyle": "none", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.1, "zorder": 6,
}  # fmt: skip
PAPER_CRITERIA = (*TASK_CRITERIA, "llm_pruner_channel", "llm_pruner_block", "slicegpt")  # the paper's, and AE
PRINTED_MODEL = "llama2_7b"  # the model whose numbers table 10 prints; figure 4 itself comes without numbers
PRINTED_NOTE = " Hollow: the paper's table 10 (LLaMA-2-7B, mean over its seeds)."
NORM = "output_norm"
LACKING = "no rows of these methods"


@figure(
    "tasks",
    about="Quality and stability against the ratio, a panel for every task and one for their mean.",
    needs="rows of at least two tasks at a pruned ratio",
)
def draw_all_tasks(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> list[Axes]:
    """Draws a block of panels for each measure, one above the other, each ending with the mean over tasks."""
    if rows["task"].nunique() < 2 or not (rows["ratio"] > 0).any():
        raise Unavailable("it takes at least two tasks with rows of a pruned ratio")
    shown, lost = _shown_rows(rows)
    return _draw_tasks(shown, lost + absent_tasks(rows), _title(rows, measures), measures, TASKS_IN_ROW)


def _title(rows: pd.DataFrame, measures: Sequence[str]) -> str:
    """Of which model, and in which block which measure is."""
    words = [MEASURE_OF[measure].words for measure in measures]
    places = {1: [""], 2: [" (above)", " (below)"]}.get(len(words), ["", *[" (below)"] * (len(words) - 1)])
    return f"{labels.model_name(rows['model'].iloc[0])}: {' and '.join(map(str.__add__, words, places))}"


def _draw_kind(
    rows: pd.DataFrame,
    tasks: Collection[str],
    printed: pd.DataFrame | None = None,
    note: str = "",
    measures: Sequence[str] = IN_PERCENT,
) -> list[Axes]:
    """The paper's methods on these tasks."""
    rows = rows[rows["task"].isin(tasks)]
    if not (rows["ratio"] > 0).any():
        raise Unavailable(f"there are no rows of a pruned ratio on {labels.named_tasks(tasks)}")
    shown, lost = _shown_rows(rows, PAPER_CRITERIA)
    lost += absent_tasks(rows, tasks)
    return _draw_tasks(shown, lost, _title(rows, measures), measures, None, printed, note)


@figure(
    "figure4",
    about="Quality above stability against the ratio for language tasks, a column for each and one for their mean.",
    needs="rows of a language task (HellaSwag, WinoGrande, ARC, OBQA, PIQA, docs) at a pruned ratio",
)
def draw_figure4(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> list[Axes]:
    """Draws the paper's methods; beside LLaMA-2-7B the paper's HIS and HIES where its table 10 has them."""
    printed = printed_language()
    beside = rows.loc[(rows["model"] == PRINTED_MODEL) & ("quality" in measures), "task"]
    printed = printed[printed["task"].isin(beside)]
    return _draw_kind(rows, labels.LANGUAGE_NAMES, printed, "" if printed.empty else PRINTED_NOTE, measures)


draw_figure10 = figure(
    "figure10",
    about="Quality above stability against the ratio for GSM8K and MMLU, and their mean.",
    needs="rows of GSM8K or MMLU at a pruned ratio",
)(partial(_draw_kind, tasks=labels.REASONING_NAMES))
draw_figure11 = figure(
    "figure11",
    about="Quality above stability against the ratio for sets of images, a column for each and one for their mean.",
    needs="rows of CIFAR-10, CIFAR-100, Food-101, Fashion-MNIST or ImageNet-1k at a pruned ratio",
)(partial(_draw_kind, tasks=labels.VISION_NAMES))


@figure(
    "figure13",
    about="Quality above stability against the ratio: the norm of the outputs alone, and with AE, a column a task.",
    needs="rows of output_norm and of hies with importance output_norm, at a pruned ratio",
)
def draw_figure13(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> list[Axes]:
    """Draws two lines a panel; of several alphas the preferred one."""
    mixed = rows[rows["importance"] == NORM] if "importance" in rows else rows[:0]
    alone, together = choice.plainest(rows, NORM), choice.plainest(mixed, "hies")
    if alone is None or together is None or not (rows["ratio"] > 0).any():
        raise Unavailable(f"it takes rows of {NORM}, and of hies with importance {NORM}, at a pruned ratio")
    title = f"{labels.model_name(rows['model'].iloc[0])}: norm of the outputs alone and with AE"
    shown = rows[rows["curve"].isin([alone, together])]
    lost = lost_tasks(rows, shown["task"], LACKING) + absent_tasks(rows)
    return _draw_tasks(shown, lost, title, measures, note=f" With AE: {together}.")


def _draw_tasks(
    rows: pd.DataFrame,
    lost: str,
    title: str,
    measures: Sequence[str],
    columns: int | None = None,
    printed: pd.DataFrame | None = None,
    note: str = "",
) -> list[Axes]:
    """A block for each measure, one above the other: a panel for each task and, of several, one for their mean.

    Without `columns` all panels stand in one row, if they fit. `printed` is the paper's quality in percent; `lost` and
    `note` are sentences of the caption.
    """
    tasks = labels.ordered_tasks(rows["task"])
    count = len(tasks) + (len(tasks) > 1)
    width = style.FIGURE_WIDTH
    if columns is None and count <= ONE_ROW:
        columns, width = count, max(LEAST_WIDTH, count * PANEL_WIDTH + LEGEND_WIDTH)
    canvas, blocks = style.small_multiples(count, columns or TASKS_IN_ROW, 1.95, len(measures), width)
    room = int(TITLE_CHARACTERS * (width - LEGEND_WIDTH) / len({axes.get_position().x0 for axes in blocks[0]}))
    below = textwrap.fill(removed_words(rows), room)
    for block, measure in zip(blocks, measures, strict=True):
        _block(block, rows, tasks, measure)
        style.outer_labels(block, below, axis_label(measure, rows))
    _name_metrics(blocks[0], tasks, rows, room, measures[0])
    if printed is not None and "quality" in measures:
        _beside(dict(zip(tasks, blocks[measures.index("quality")], strict=False)), printed)
    panels = [axes for block in blocks for axes in block]
    style.legend_beside(canvas, panels, fontsize=8.5)
    style.headline(canvas, title, _caption(rows, tasks, measures) + note + lost)
    return panels


def _shown_rows(rows: pd.DataFrame, criteria: Iterable[str] = TASK_CRITERIA) -> tuple[pd.DataFrame, str]:
    """The rows of `shown_curves`, those of each task chosen for itself, and a sentence about tasks without any."""
    parts = [part[part["curve"].isin(shown_curves(part, criteria))] for _, part in rows.groupby("task")]
    shown = pd.concat(parts).sort_index()
    if shown.empty:
        raise Unavailable("there are no rows of the methods that it shows")
    return shown, lost_tasks(rows, shown["task"], LACKING)


def shown_curves(rows: pd.DataFrame, criteria: Iterable[str] = TASK_CRITERIA) -> list[str]:
    """Returns HIES with its preferred alpha and with alpha = auto, and the plainest curve of every other criterion.

    Of a method with and without tuning the plainest of both.
    """
    chosen = [choice.plainest(rows, "hies"), choice.with_word(rows, "auto")]
    for criterion in criteria:
        same = rows[rows["criterion"] == criterion]
        forms = [part for _, part in same.groupby("tune", dropna=False)] if "tune" in same else [same]
        chosen += [choice.plainest(part, criterion) for part in forms]
    return [curve for curve in dict.fromkeys(chosen) if curve is not None]


def printed_language() -> pd.DataFrame:
    """Returns what the paper's table 10 prints of single tasks: task, criterion, ratio, percent."""
    printed = paper.read_paper("table10_llama_seeds").rename(columns={"HIS_percent": "his", "HIES_percent": "hies"})
    long = printed.melt(["task", "ratio"], ["his", "hies"], var_name="criterion", value_name="percent")
    return long[long["task"].isin(labels.LANGUAGE_NAMES)]


def _block(block: list[Axes], rows: pd.DataFrame, tasks: list[str], column: str) -> None:
    """One measure: a panel a task, then the mean."""
    looks = style.smaller(style.looks(rows))
    last = 100 * rows["ratio"].max()
    for axes, task in zip(block, [*tasks, None], strict=False):
        points = mean_of_tasks(rows, column) if task is None else rows[rows["task"] == task]
        none = task is None and averaged(rows, column).empty
        draw_panel(axes, points, column, looks, "no task above chance" if none else "undefined")
        axes.set_title("Mean over tasks" if task is None else labels.task_name(task), fontsize=9.5)
        axes.tick_params(labelsize=8.5, labelbottom=True)
        axes.set_xlim(-0.05 * last, 1.05 * last)
        axes.xaxis.set_major_locator(MultipleLocator(20))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=not is_loss(column)))


def _name_metrics(block: list[Axes], tasks: list[str], rows: pd.DataFrame, room: int, measure: str) -> None:
    """Metric, or unit of a loss, and number of examples at the right above each task's panel.

    The metric is acc_norm where lm-eval has one and it is shown. Where one has more characters than there is `room`,
    all stand below the names.
    """
    if measure == NORMALIZED:
        other = rows.loc[rows[NORMALIZED].notna() & (rows[NORMALIZED] != rows["quality"]), "task"]
        rows = rows.assign(metric=rows["metric"].mask(rows["task"].isin(other), "acc_norm"))
    first = rows.drop_duplicates("task").set_index("task").loc[tasks]
    units = {name: unit(measure, name) if is_loss(measure) else labels.metric_name(name) for name in first["metric"]}
    metrics = [f"{units[row.metric]}, n = {row.examples:,}" for row in first.itertuples()]
    names = map(labels.task_name, tasks)
    if any(len(name) + len(words) > room for name, words in zip(names, metrics, strict=True)):
        for axes in block:
            axes.set_title(f"{axes.get_title(loc='left')}\n", fontsize=9.5)
    for axes, words in zip(block, metrics, strict=False):
        axes.set_title(words, loc="right", fontsize=8, fontweight="normal", color=style.MUTED)


def _beside(panels: dict[str, Axes], printed: pd.DataFrame) -> None:
    """The paper's quality as hollow markers, in the colour of the criterion."""
    for (task, criterion), part in printed.groupby(["task", "criterion"], sort=False):
        if axes := panels.get(str(task)):
            color, marker = style.LOOKS[str(criterion)]
            name = f"{labels.criterion_name(str(criterion))}{labels.OF_PAPER}"
            look = {**PRINTED_LOOK, "marker": marker, "markeredgecolor": color}
            axes.plot(100 * part["ratio"], part["percent"], label=name, **look)


def _caption(rows: pd.DataFrame, tasks: list[str], measures: Sequence[str]) -> str:
    text = f"{caption(rows)}. n: examples of the report split."
    if len(tasks) > 1:
        kept = {MEASURE_OF[name].words: len(tasks) - len(at_chance(rows, name)) for name in measures}
        fewer = ", ".join(f"of {words} over {count or 'none'}" for words, count in kept.items() if count < len(tasks))
        text += f" The mean is over all {len(tasks)} tasks{f' ({fewer})' * bool(fewer)}, "
        text += "and absent where one of them has no number."
    text += f" Line: mean over draws; band: {interval_words(rows)}."
    if "quality" in measures and rows["metric"].isin(CORRELATIONS).any():
        text += f" {MAPPED_NOTE}."
    return text + style.rest_note(rows) + notes(measures, rows)
