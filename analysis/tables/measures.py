"""Quality and stability: a line for each curve, a column for each ratio (the form of tables 1 and 2)."""

import pandas as pd

from analysis.registry import Table, table
from analysis.stats.intervals import Interval, summarise
from analysis.text.captions import caption
from analysis.text.labels import in_order, ordered_curves
from analysis.text.numbers import percent

UNDEFINED = "undefined"  # in the place of a number that no seed has


@table(
    "quality",
    about="Quality of each criterion at each ratio: mean over seeds and 95 % bootstrap interval.",
    needs="any rows",
)
def quality_table(rows: pd.DataFrame) -> Table:
    """Returns quality in percent; the metric is named in the caption."""
    metric = ", ".join(sorted(rows["metric"].unique()))
    return _measure(rows, "quality", f"Quality (%, {metric})")


@table(
    "stability",
    about="Stability of each criterion at each ratio: mean over seeds and 95 % bootstrap interval.",
    needs="any rows",
)
def stability_table(rows: pd.DataFrame) -> Table:
    """Returns stability in percent: agreement with the unpruned model."""
    return _measure(rows, "stability", "Stability (%, agreement with the unpruned model)")


def seeds_note(seeds: int) -> str:
    """Returns what the brackets mean, for a caption."""
    if seeds < 2:
        return "One seed: no intervals."
    note = "Brackets: 95 % percentile bootstrap interval over seeds"
    return note + (", which for two or three seeds is their range." if seeds < 4 else ".")


def _measure(rows: pd.DataFrame, column: str, title: str) -> Table:
    points = in_order(summarise(rows, column, ["curve", "ratio"]), rows, ["curve", "ratio"])
    seeds = rows["seed"].nunique()
    texts = points.assign(
        text=[_text(Interval(*point), seeds) for point in points[[*Interval._fields]].itertuples(index=False)]
    )
    wide = texts.pivot(index="curve", columns="ratio", values="text").reindex(ordered_curves(rows)).fillna("")
    wide.columns = [percent(ratio) for ratio in wide.columns]
    return Table(wide.reset_index(names="criterion"), points, f"{title}: {caption(rows)}. {seeds_note(seeds)}")


def _text(point: Interval, seeds: int) -> str:
    """`mean [low, high]`, or that it is undefined, and n where some seeds are undefined or missing."""
    if point.n == 0:
        return UNDEFINED
    bounds = f" [{point.low:.2f}, {point.high:.2f}]" if point.n > 1 else ""
    return f"{point.mean:.2f}{bounds}" + (f" (n = {point.n})" if point.n < seeds else "")
