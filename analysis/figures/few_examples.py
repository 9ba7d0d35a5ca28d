"""HIES minus HIS against the number of calibration examples."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from analysis import style
from analysis.registry import figure
from analysis.stats.significance import DRAWS
from analysis.stats.sizes import SIZE, agreement_of_draws, differences_by_size, gains_of_sizes, means_by_size
from analysis.tables.sizes import INTERVALS, OF_SIZES
from analysis.text.captions import caption, percent
from analysis.text.labels import model_name, without_word
from analysis.text.measures import ALL_MEASURES, MEASURE_OF, averaged, axis_label, measured, notes


@figure(
    "few_examples",
    about="HIES minus HIS against the number of calibration examples, and how far the draws agree.",
    needs=OF_SIZES,
)
def draw_few_examples(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = ALL_MEASURES) -> list[Axes]:
    """Draws a row for each ratio, a panel for each measure, and one for the overlap of the draws' masks."""
    measures, plain = measured(rows, measures), without_word(rows, SIZE)
    data, agreement = differences_by_size(gains_of_sizes(rows, draws), measures), agreement_of_draws(rows)
    lines = means_by_size(data)
    ratios, looks = sorted(lines["ratio"].unique()), _looks(plain, lines["criterion"].unique())
    canvas = style.new_figure(3 + 3 * (len(measures) + 1), 0.8 + 3.1 * len(ratios))
    grid = canvas.subplots(len(ratios), len(measures) + 1, sharex=True, squeeze=False)
    for line, ratio in zip(grid, ratios, strict=True):
        for axes, measure in zip(line, measures, strict=False):
            _panel(axes, lines[(lines["ratio"] == ratio) & (lines["measure"] == measure)], "mean", looks)
            axes.axhline(0, color=style.INK, linewidth=1, zorder=2)
            axes.set_title(f"{MEASURE_OF[measure].words},\n{percent(ratio)} removed")
            axes.set_ylabel(axis_label(measure, averaged(rows, measure)).replace("%", "points"))
        _panel(line[-1], agreement[agreement["ratio"] == ratio], "agreement", looks)
        line[-1].set(title=f"overlap of draws,\n{percent(ratio)} removed", ylabel="mean Jaccard", ylim=(0, 1.02))
    for axes in grid[-1]:
        axes.set_xlabel("calibration examples")
    panels = list(grid.flat)
    style.legend_beside(canvas, panels)
    text = f"{caption(rows)}. Line: mean over draws and tasks, absent where one has no number. "
    text += f"{INTERVALS.replace('Brackets', 'Band')}."
    title = f"{model_name(rows['model'].iloc[0])}: HIES minus HIS of the same examples"
    style.headline(canvas, title, text + notes(measures, rows))
    return panels


def _looks(rows: pd.DataFrame, hies: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The usual styles, but for the curves of HIES, which differ in a knob alone and cross each other."""
    looks, curves = style.looks(rows), set(hies)
    ordered = [curve for curve in looks if curve in curves]
    colors = {curve: colormaps["plasma"](0.8 * i / max(len(ordered) - 1, 1)) for i, curve in enumerate(ordered)}
    return {curve: {**look, "color": colors.get(curve, look["color"])} for curve, look in looks.items()}


def _panel(axes: Axes, points: pd.DataFrame, column: str, looks: dict) -> None:
    """A line for each curve over the sizes, which double from one tick to the next."""
    for curve, look in looks.items():
        own = points[points["criterion"] == curve].sort_values(SIZE)
        if own.empty:
            continue
        axes.plot(own[SIZE], own[column], label=curve, markeredgecolor="white", markeredgewidth=0.5, **look)
        if "low" in own:
            axes.fill_between(own[SIZE], own["low"], own["high"], color=look["color"], alpha=0.16, linewidth=0)
    style.axis_of_sizes(axes, points[SIZE])
