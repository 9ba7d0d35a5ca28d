"""Few calibration examples: HIES minus HIS by their number, and k of alpha = n / (n + k) as other tasks choose it."""

from collections.abc import Sequence

import pandas as pd

from analysis.registry import Table, table
from analysis.stats.intervals import corrected
from analysis.stats.significance import DRAWS, MEAN
from analysis.stats.sizes import (
    SIZE,
    agreement_of_draws,
    chosen_on_other_tasks,
    differences_by_size,
    gains_of_sizes,
    levels_by_size,
    means_by_size,
)
from analysis.tables.beside import side_by_side, signed, tasks_and_means
from analysis.tables.differences import verdict_note
from analysis.text.captions import caption, number, percent
from analysis.text.labels import in_order, ordered_curves, without_word
from analysis.text.measures import ALL_MEASURES, MEASURE_OF, difference_units, measured, notes

OF_SIZES = "rows and predictions of his, and of hies, on the same seeds, of at least two calibration sizes"
INTERVALS = (
    "Brackets: 95 % interval over draws and evaluation examples, of these tasks with one checkpoint each and not "
    "corrected for their number; of fewer than five draws their range"
)


@table(
    "sizes",
    about="HIES minus HIS by the number of calibration examples, mean over tasks, and how far the draws agree.",
    needs=OF_SIZES,
)
def sizes_table(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = ALL_MEASURES) -> Table:
    """Returns a line for each curve and calibration size; that of HIS and AE has their own means, not differences."""
    measures = measured(rows, measures)
    data = differences_by_size(gains_of_sizes(rows, draws), measures).drop(columns="verdict")  # which none is corrected
    agreement, levels = agreement_of_draws(rows), levels_by_size(rows, measures)
    own = levels[~levels["curve"].isin(data["criterion"]) & (levels["ratio"] > 0)]
    differences = pd.concat([agreement, means_by_size(data)]).rename(columns={"criterion": "curve"})
    lines = pd.concat([differences, own])
    own_curves = " and ".join(sorted(own["curve"].unique()))
    named = in_order(lines.assign(task=MEAN), without_word(rows, SIZE), ["curve", SIZE])
    named = named.rename(columns={"curve": "criterion", SIZE: "examples"})

    def cells(row: dict) -> dict[str, str]:
        if pd.notna(row["agreement"]):
            return {f"draws agree, {percent(row['ratio'])}": number(row["agreement"])}
        measure = MEASURE_OF[row["measure"]]
        text = signed(row) if pd.isna(row["level"]) else number(row["level"], f".{measure.digits}f")
        return {f"{measure.words}, {percent(row['ratio'])}": text}

    shown = side_by_side(named, ["criterion", "examples"], cells)
    text = (
        f"HIES minus HIS of the same calibration examples in {difference_units(measures, rows)}, mean over tasks, "
        f"absent where one has no number: {caption(rows)}. {INTERVALS}. Of {own_curves} the means "
        f"themselves ({_unpruned(levels)}). Draws agree: mean Jaccard overlap of the heads that two draws remove; of "
        f"heads drawn at random {_by_chance(rows)}. k is 1 where none is named."
    )
    of_all = rows["task"].iloc[0] if rows["task"].nunique() == 1 else MEAN
    for beside in (agreement, levels):
        data = data.merge(beside.rename(columns={"curve": "criterion"}).assign(task=of_all), how="outer")
    return Table(shown, data, text + notes(measures, rows))


def _by_chance(rows: pd.DataFrame) -> str:
    """Returns what the overlap of two random choices of heads is about, at each ratio, in words."""
    ratios = sorted(rows.loc[rows["ratio"] > 0, "ratio"].unique())  # r * r of r + r - r * r
    return " and ".join(f"{number(ratio / (2 - ratio))} at {percent(ratio)}" for ratio in ratios)


def _unpruned(levels: pd.DataFrame) -> str:
    """What the unpruned model has, in words."""
    dense = levels[levels["ratio"] == 0].drop_duplicates("measure")
    parts = [f"{MEASURE_OF[one].words} {number(level, f'.{MEASURE_OF[one].digits}f')}"
             for one, level in zip(dense["measure"], dense["level"], strict=True)]  # fmt: skip
    return f"unpruned: {', '.join(parts)}"


@table(
    "held_out",
    about="HIES with alpha = n / (n + k) minus HIS, k of each task chosen on all the others.",
    needs=f"{OF_SIZES}, of hies with alpha=shrink and at least two values of prior_examples",
)
def held_out_table(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = ALL_MEASURES) -> Table:
    """Returns a line for each task and their mean: which k the other tasks choose, and what it gains here."""
    measures, plain = measured(rows, measures), without_word(rows, SIZE)
    used = plain[plain["alpha"].eq("shrink") | (plain["criterion"] == "his")] if "alpha" in plain else plain[:0]
    candidates = ordered_curves(used[used["criterion"] == "hies"])
    data = chosen_on_other_tasks(gains_of_sizes(used, draws) if candidates else {}, candidates, measures)
    data = corrected(data, data["task"].eq(MEAN))
    named = data.assign(task=tasks_and_means(data["task"], data["tasks"]))

    def cells(row: dict) -> dict[str, str]:
        words = MEASURE_OF[row["measure"]].words
        return {f"by {words}": row["criterion"], words: f"{row['verdict']}: {signed(row)}"}

    text = (
        f"HIES minus HIS in {difference_units(measures, used)}, mean over ratios and calibration sizes "
        f"({', '.join(data.loc[data['sizes'] != '', 'sizes'].iloc[0].split())}): "
        f"{caption(used)}. "
        "By: which curve has the best mean of this measure on all other tasks; what is reported of a task has no "
        f"part in it. {INTERVALS}, the choice taken as given."
        f" {verdict_note(data)}"
    )
    return Table(side_by_side(named, ["task"], cells), data, text + notes(measures, used, differences=True))
