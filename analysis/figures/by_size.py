"""What HIS and HIES keep against the number of calibration examples (tables 11 and 12 of the paper, as a figure)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.errors import Unavailable
from analysis.registry import figure
from analysis.stats.intervals import summarise
from analysis.stats.pairing import his_and_usual_hies
from analysis.text import choice
from analysis.text.captions import caption, interval_words, lost_tasks, percent
from analysis.text.labels import criterion_name, model_name, ordered_tasks, task_name, without_word
from analysis.text.measures import IN_PERCENT, MEASURE_OF, axis_label, notes

HIS_AND_HIES = ("his", "hies")
TASKS_BESIDE = 5  # of more panels the numbers of sizes would touch
ONE_SIZE_ONLY = "fewer than two calibration sizes of his and hies"


@figure(
    "by_size",
    about="Quality and stability of HIS and HIES against the number of calibration examples, a panel for every task.",
    needs="rows of his and hies with at least two calibration sizes, at a pruned ratio",
)
def draw_by_size(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> list[Axes]:
    """Draws a block of panels a measure; in a panel a pair of lines a ratio, told apart by dashes and marks."""
    shown = his_and_usual_hies(rows[rows["ratio"] > 0])
    counts = shown.groupby(["task", "criterion"])["calibration_size"].nunique().unstack().reindex(columns=HIS_AND_HIES)
    tasks = [task for task in ordered_tasks(shown["task"]) if (counts.loc[task] > 1).all()]
    if not tasks:
        raise Unavailable("no task has rows of his and hies with two calibration sizes")
    shown = shown[shown["task"].isin(tasks)]
    canvas, blocks = style.small_multiples(len(tasks), TASKS_BESIDE, height=2.5, lines=len(measures))
    for block, measure in zip(blocks, measures, strict=True):
        for axes, task in zip(block, tasks, strict=True):
            _panel(axes, shown[shown["task"] == task], measure)
            axes.set_title(task_name(task))
        style.outer_labels(block, "calibration examples", axis_label(measure, shown))
    style.legend_beside(canvas, blocks[0])
    words = " and ".join(MEASURE_OF[measure].words for measure in measures)
    name = without_word(choice.usual_run(shown, "hies"), "calibration_size")["curve"].iloc[0]
    text = f"{caption(shown)}. Round: {name}. Line: mean over draws; band: {interval_words(shown)}."
    text += f"{notes(measures, rows)}{lost_tasks(rows, tasks, ONE_SIZE_ONLY)}"
    style.headline(canvas, f"{model_name(rows['model'].iloc[0])}: {words} by the size of the calibration set", text)
    return [axes for block in blocks for axes in block]


def _panel(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    points = summarise(rows, measure, ["criterion", "ratio", "calibration_size"]).sort_values("calibration_size")
    ratios = sorted(rows["ratio"].unique())
    for criterion in HIS_AND_HIES:
        color, marker = style.LOOKS[criterion]
        for place, ratio in enumerate(ratios):
            line = points[(points["criterion"] == criterion) & (points["ratio"] == ratio)]
            look: dict[str, Any] = {
                "color": color,
                "marker": marker,
                "linestyle": style.DASHES[place % len(style.DASHES)],
                "markerfacecolor": "white" if place // len(style.DASHES) % 2 else color,
            }
            axes.plot(
                line["calibration_size"], line["mean"], label=f"{criterion_name(criterion)}, {percent(ratio)}", **look
            )
            axes.fill_between(line["calibration_size"], line["low"], line["high"], color=color, alpha=0.1, linewidth=0)
    style.axis_of_sizes(axes, rows["calibration_size"])
    if rows["calibration_size"].nunique() > 4:  # in a narrow panel their numbers would touch
        axes.tick_params("x", rotation=60, labelsize=8)
