"""HIES against HIS at each ratio, paired by seed: the claim of the paper in one table."""

import pandas as pd

from analysis.registry import Table, table
from analysis.stats.intervals import mean_interval, side_of_zero
from analysis.stats.pairing import COMPARED_MEASURES, paired
from analysis.tables.measures import UNDEFINED, seeds_note
from analysis.text.captions import caption
from analysis.text.labels import in_order, task_name
from analysis.text.numbers import percent, signed_interval


@table(
    "summary",
    about="HIES minus HIS in quality and stability, paired by seed, with a verdict for each ratio.",
    needs="rows of his and hies with the same seeds",
    per=("experiment",),
)
def summary_table(rows: pd.DataFrame) -> Table:
    """Returns a line for each model, task, HIES curve and ratio; ahead or behind only if the interval excludes 0."""
    pairs = paired(rows)
    keys = ["model", "task", "curve", "ratio"]
    lines = [_line(dict(zip(keys, key, strict=True)), group) for key, group in pairs.groupby(keys, dropna=False)]
    data = in_order(pd.DataFrame(lines), pairs, keys)
    used = rows[rows["criterion"].isin(["his", "hies"])]
    text = f"HIES minus HIS in percentage points, paired by seed: {caption(used)}. "
    text += f"{seeds_note(int(data['seeds'].max()))} Ahead or behind: the interval excludes 0."
    text += " The interval covers the choice of the seeds, not that of the evaluation examples."
    return Table(_shown(data), data, text)


def _line(line: dict[str, object], group: pd.DataFrame) -> dict[str, object]:
    line["seeds"] = len(group)
    for measure in COMPARED_MEASURES:
        interval = mean_interval(group[f"{measure}_gain"].to_numpy())
        line |= {f"{measure}_{name}": value for name, value in interval._asdict().items()}
        line[f"{measure}_verdict"] = side_of_zero(interval.low, interval.high) if interval.n else UNDEFINED
    return line


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    columns = {"model": data["model"], "task": data["task"].map(task_name), "criterion": data["curve"]}
    columns["removed"] = data["ratio"].map(percent)
    for measure in COMPARED_MEASURES:
        ends = data[[f"{measure}_{name}" for name in ("mean", "low", "high")]].set_axis(["mean", "low", "high"], axis=1)
        known = data[f"{measure}_n"] > 0
        columns[measure] = ends.apply(signed_interval, axis=1).where(known, UNDEFINED)
        columns[f"{measure}: HIES is"] = data[f"{measure}_verdict"].where(known, "")
    columns["seeds"] = data["seeds"].map(str)
    return pd.DataFrame(columns)
