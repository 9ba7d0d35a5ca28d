"""Other forms of HIS, AE and HIES against the paper's, as a forest plot."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.registry import figure
from analysis.stats.intervals import TO_ONE_SIDE
from analysis.stats.significance import DRAWS, MEAN
from analysis.stats.variants import WINDOWS, compare
from analysis.tables.differences import fewer_ratios_note, missing_note, ratios_of, window_words
from analysis.text.captions import caption
from analysis.text.labels import criterion_name, model_name
from analysis.text.measures import IN_PERCENT, MEASURE_OF, difference_units, is_loss, notes

COMPARISON_HEIGHT, BLOCK_GAP = 0.25, 0.22  # inches of a comparison and between blocks
TASK_ROOM = 0.6  # how far single tasks widen a scale, in widths of what the intervals take
WIDE = 5  # columns from which a scale has room for few small numbers


@figure(
    "forest",
    about="Reductions of HIS, entropies and combinations of HIES against the paper's, a line for each comparison.",
    needs="rows and predictions of another form of his, ae or hies and of the paper's form, on the same seeds",
)
def draw_forest(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = IN_PERCENT) -> list[Axes]:
    """Draws a block of lines for each reference; a column for each range of ratios and measure."""
    data = compare(rows, draws, measures)
    drawn = _marked(data[data["tasks"] > 0], rows)
    blocks = {str(name): list(block["criterion"].unique()) for name, block in drawn.groupby("against", sort=False)}
    columns = [(removed, measure) for removed in WINDOWS for measure in measures if removed in set(drawn["removed"])]
    windows = window_words(data)
    scales = drawn.drop_duplicates("against").set_index("against")["scale"]
    heights = [len(curves) + 1 for curves in blocks.values()]
    canvas = style.new_figure(style.FIGURE_WIDTH, COMPARISON_HEIGHT * sum(heights) + BLOCK_GAP * len(blocks) + 2)
    grid = canvas.subplots(len(blocks), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights})
    for place, (removed, measure) in enumerate(columns):
        lines = drawn[(drawn["removed"] == removed) & (drawn["measure"] == measure)]
        for axes, (against, curves) in zip(grid[:, place], blocks.items(), strict=True):
            _panel(axes, curves, lines[lines["against"] == against])
        _scales(dict(zip(blocks, grid[:, place], strict=True)), lines, scales)
        grid[0, place].set_title(f"{MEASURE_OF[measure].words},\n{windows[removed]}")
    for axes in grid.flat if len(columns) >= WIDE else ():
        axes.locator_params(axis="x", nbins=2)
        axes.tick_params(axis="x", labelsize=7)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))  # 0, not 0.000
    for axes, (against, curves) in zip(grid[:, 0], blocks.items(), strict=True):
        _names(axes, against, curves, drawn)
    curves = rows[rows["curve"].isin(drawn["criterion"])].drop_duplicates("criterion")
    forms = " and ".join(map(criterion_name, curves["criterion"]))
    title = f"{model_name(rows['model'].iloc[0])}: forms of {forms} minus their references"
    style.headline(canvas, title, _caption(data, rows, measures))
    return list(grid.flat)


def scale_limits(lines: pd.DataFrame) -> tuple[float, float]:
    """Returns the ends of a scale that holds 0, all intervals, and the single tasks that are not far off."""
    ends = lines.loc[lines["bold"], ["low", "mean", "high"]].to_numpy().ravel()
    low, high = np.nanmin([0, *ends]), np.nanmax([0, *ends])
    room, tasks = TASK_ROOM * (high - low), [0, *lines["mean"]]
    low, high = min(low, max(low - room, np.nanmin(tasks))), max(high, min(high + room, np.nanmax(tasks)))
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _marked(data: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Which lines stand for a comparison (the mean over tasks, or the only task), their colour, and their scale."""
    counts = data.groupby(["criterion", "against", "measure", "removed"])["task"].transform("size")
    criteria = rows.drop_duplicates("curve").set_index("curve")["criterion"]
    colors = data["criterion"].map(criteria).map(lambda criterion: style.LOOKS.get(criterion, style.SPARE[0])[0])
    # Entropy alone differs by far more than what HIS has a part in.
    scale = np.where(data["against"].map(criteria).isin(["his", "hies"]), "importance", data["against"])
    return data.assign(bold=(data["task"] == MEAN) | (counts == 1), color=colors, scale=scale)


def _panel(axes: Axes, curves: list[str], lines: pd.DataFrame) -> None:
    """A line for each curve below the place of the reference's name."""
    for row in lines.to_dict("records"):
        place, color = curves.index(row["criterion"]) + 1, row["color"]
        if not row["bold"]:
            axes.plot(row["mean"], place, "|", color=color, markersize=7, markeredgewidth=0.8)
        elif np.isnan(row["mean"]):
            axes.text(0, place, " undefined", va="center", fontsize=8, color=style.MUTED)
        else:
            face = color if row["verdict"] in TO_ONE_SIDE else "white"
            axes.plot([row["low"], row["high"]], [place] * 2, color=color, linewidth=2.2, zorder=4)
            axes.plot(row["mean"], place, "o", color=color, markerfacecolor=face, markeredgewidth=1.6, zorder=5)
    axes.axvline(0, color=style.INK, linewidth=1, zorder=2)
    axes.set_ylim(len(curves) + 0.6, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _scales(panels: dict[str, Axes], lines: pd.DataFrame, scales: pd.Series) -> None:
    """The same scale for neighbours that can bear it; its numbers stand below the last of them."""
    for place, (against, axes) in enumerate(panels.items()):
        axes.set_xlim(*scale_limits(lines[lines["scale"] == scales[against]]))
        below = list(panels)[place + 1 : place + 2]
        numbered = not below or scales[below[0]] != scales[against]
        axes.tick_params(bottom=numbered, labelbottom=numbered)


def _names(axes: Axes, against: str, curves: list[str], drawn: pd.DataFrame) -> None:
    """The reference in bold, then the curves; how many tasks where another comparison has more."""
    tasks = drawn[drawn["against"] == against].groupby("criterion")["tasks"].max()
    most = drawn["tasks"].max()
    names = [f"{curve}, {tasks[curve]} of {most} tasks" if tasks[curve] < most else curve for curve in curves]
    axes.set_yticks(range(len(curves) + 1), [f"minus {against}", *names])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)


def _caption(data: pd.DataFrame, rows: pd.DataFrame, measures: Sequence[str]) -> str:
    used = rows[rows["curve"].isin({*data["criterion"], *data["against"]})]
    losses = [is_loss(measure) for measure in measures]
    side = "Left" if all(losses) else "Right, of losses left," if any(losses) else "Right"
    text = f"Differences in {difference_units(measures, used)}: {caption(used)}. "
    text += f"{side} of the line: better than the reference. Circle and bar: mean over draws, ratios "
    text += f"(of {ratios_of(data)}) and tasks with 95 % t interval over draws and examples, filled where it "
    text += "excludes 0 (not corrected; the table `variants` is); of fewer than five draws their range, never filled; "
    text += (
        f"thin tick: a single task (one that is far off may lie outside).{fewer_ratios_note(data)}{missing_note(data)}"
    )
    return text + notes(measures, used)
