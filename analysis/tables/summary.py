"""HIES against HIS at each ratio, paired by seed: the claim of the paper in one table."""

import numpy as np
import pandas as pd

from analysis.captions import caption, percent
from analysis.labels import ordered_curves, ordered_tasks, task_name
from analysis.pairing import MEASURES, paired
from analysis.registry import Table, table
from analysis.statistics import Interval, mean_interval
from analysis.tables.measures import UNDEFINED, interval_note


@table(
    "summary",
    about="HIES minus HIS in quality and stability, paired by seed, with a verdict for each ratio.",
    needs="rows of his and hies with the same seeds",
    per=("experiment",),
)
def summary(rows: pd.DataFrame) -> Table:
    """One line for each model, task, HIES curve and ratio; ahead or behind only if the interval excludes 0."""
    pairs = paired(rows)
    groups = pairs.groupby(["model", "task", "curve", "ratio"], dropna=False)
    data = pd.DataFrame([_line(key, group) for key, group in groups])
    order = {name: place for place, name in enumerate([*ordered_tasks(pairs["task"]), *ordered_curves(pairs)])}
    data = data.sort_values(
        ["model", "task", "curve", "ratio"], key=lambda c: c.map(order) if c.name in ("task", "curve") else c
    )
    used = rows[rows["criterion"].isin(["his", "hies"])]
    text = f"HIES minus HIS in percentage points, paired by seed: {caption(used)}. "
    text += f"{interval_note(int(data['seeds'].max()))} Ahead or behind: the interval excludes 0."
    text += " The interval covers the choice of the seeds, not that of the evaluation examples."
    return Table(_shown(data), data, text)


def verdict(interval: Interval) -> str:
    """`ahead` or `behind` if the interval excludes 0, else `undecided` (always so for a single seed)."""
    if interval.low > 0:
        return "ahead"
    return "behind" if interval.high < 0 else "undecided"


def _line(key: tuple[str, str, str, float], group: pd.DataFrame) -> dict[str, object]:
    line: dict[str, object] = dict(zip(("model", "task", "curve", "ratio"), key, strict=True))
    line["seeds"] = len(group)
    for measure in MEASURES:
        interval = mean_interval(group[f"{measure}_gain"].to_numpy())
        line |= {f"{measure}_{name}": value for name, value in interval._asdict().items()}
        line[f"{measure}_verdict"] = verdict(interval) if interval.n else UNDEFINED
    return line


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    columns = {"model": data["model"], "task": data["task"].map(task_name), "criterion": data["curve"]}
    columns["removed"] = data["ratio"].map(percent)
    for measure in MEASURES:
        columns[measure] = data.apply(_gain_text, axis=1, measure=measure)
        columns[f"{measure}: HIES is"] = data[f"{measure}_verdict"].where(data[f"{measure}_n"] > 0, "")
    columns["seeds"] = data["seeds"].map(str)
    return pd.DataFrame(columns)


def _gain_text(line: pd.Series, measure: str) -> str:
    mean, low, high = (line[f"{measure}_{name}"] for name in ("mean", "low", "high"))
    if np.isnan(mean):
        return UNDEFINED
    return signed(mean) + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")


def signed(value: float) -> str:
    """A difference to two digits with its sign; no sign on zero."""
    return f"{value:+.2f}" if round(value, 2) else "0.00"
