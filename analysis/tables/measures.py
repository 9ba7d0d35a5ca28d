"""Quality and stability: a line for each curve, a column for each ratio (the form of tables 1 and 2)."""

import pandas as pd

from analysis.captions import caption, percent
from analysis.labels import ordered_curves
from analysis.registry import Table, table
from analysis.statistics import Interval, summarise

UNDEFINED = "undefined"  # in the place of a number that no seed has


@table(
    "quality",
    about="Quality of each criterion at each ratio: mean over seeds and 95 % bootstrap interval.",
    needs="any rows",
)
def quality(rows: pd.DataFrame) -> Table:
    """Quality in percent; the metric is named in the caption."""
    metric = ", ".join(sorted(rows["metric"].unique()))
    return _measure(rows, "quality", f"Quality (%, {metric})")


@table(
    "stability",
    about="Stability of each criterion at each ratio: mean over seeds and 95 % bootstrap interval.",
    needs="any rows",
)
def stability(rows: pd.DataFrame) -> Table:
    """Stability in percent: agreement with the unpruned model."""
    return _measure(rows, "stability", "Stability (%, agreement with the unpruned model)")


def interval_text(interval: Interval, seeds: int) -> str:
    """`mean [low, high]`, or that it is undefined, and n where some seeds are undefined or missing."""
    if interval.n == 0:
        return UNDEFINED
    bounds = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval.n > 1 else ""
    return f"{interval.mean:.2f}{bounds}" + (f" (n = {interval.n})" if interval.n < seeds else "")


def interval_note(seeds: int) -> str:
    """What the brackets mean, for a caption."""
    if seeds < 2:
        return "One seed: no intervals."
    note = "Brackets: 95 % percentile bootstrap interval over seeds"
    return note + (", which for two or three seeds is their range." if seeds < 4 else ".")


def _measure(rows: pd.DataFrame, column: str, title: str) -> Table:
    points = summarise(rows, column, ["curve", "ratio"])
    order = {curve: place for place, curve in enumerate(ordered_curves(rows))}
    points = points.sort_values(["curve", "ratio"], key=lambda c: c.map(order) if c.name == "curve" else c)
    seeds = rows["seed"].nunique()
    points["text"] = [
        interval_text(Interval(row.mean, row.low, row.high, row.n), seeds) for row in points.itertuples(name="Point")
    ]
    wide = points.pivot(index="curve", columns="ratio", values="text").reindex(list(order)).fillna("")
    wide.columns = [percent(ratio) for ratio in wide.columns]
    shown = wide.reset_index(names="criterion")
    return Table(shown, points.drop(columns="text"), f"{title}: {caption(rows)}. {interval_note(seeds)}")
