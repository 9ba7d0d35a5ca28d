"""HIES minus HIS over several fine-tuned checkpoints of a task: what the checkpoint of the next user will do."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.stats.intervals import LEVEL, side_of_zero
from analysis.stats.pairing import PROTOCOL_KEYS
from analysis.tables.beside import side_by_side
from analysis.text.captions import caption, percent, signed_interval
from analysis.text.labels import in_order, task_name, without_word
from analysis.text.measures import ALL_MEASURES, MEASURE_OF, better, difference_units, measured, notes

OF_CHECKPOINTS = "rows of his and hies on the same seeds, of at least two checkpoints of a task"


@table(
    "checkpoints",
    about="HIES minus HIS over several checkpoints of a task, with an interval for the next one.",
    needs=OF_CHECKPOINTS,
)
def checkpoints_table(rows: pd.DataFrame, measures: Sequence[str] = ALL_MEASURES) -> Table:
    """Returns a line for each task, curve and ratio: the mean over the checkpoints, of each the mean over its draws."""
    measures, plain = measured(rows, measures), without_word(rows, "checkpoint")
    gains = _gains(plain, measures)
    if (gains.groupby("task")["checkpoint"].nunique() < 2).all():
        raise Unavailable(f"it takes {OF_CHECKPOINTS}")
    keys = ["task", "curve", "ratio", "measure"]
    parts = gains.groupby(keys)["mean"]
    data = pd.DataFrame([{**dict(zip(keys, key, strict=True)), **over_checkpoints(means)} for key, means in parts])
    data = in_order(data, plain, keys[:3]).rename(columns={"curve": "criterion"})
    named = data.assign(task=data["task"].map(task_name), removed=data["ratio"].map(percent))

    def cells(row: dict) -> dict[str, str]:
        measure = MEASURE_OF[row["measure"]]
        verdict = side_of_zero(row["low"], row["high"], better(row["measure"]))
        apart = f"{row['apart']:.{measure.digits}f}"
        return {measure.words: f"{verdict}: {signed_interval(row, measure.digits)}", f"{measure.words}, apart": apart}

    shown = side_by_side(named, ["task", "criterion", "removed", "checkpoints"], cells)
    text = (
        f"HIES minus HIS in {difference_units(measures, plain)}, mean over checkpoints that were fine-tuned with other "
        f"seeds: {caption(plain)}. Brackets: 95 % t interval over the checkpoints, of each the mean over its draws. "
        "Apart: standard deviation of these means. Ahead or behind: the interval excludes 0, not corrected for their "
        "number."
    )
    return Table(shown, data, text + notes(measures, plain, differences=True))


def over_checkpoints(means: Sequence[float] | pd.Series) -> dict[str, float]:
    """Returns mean, t interval and standard deviation of the means of several checkpoints; NaN where one is too few."""
    values = np.asarray(means, dtype=float)
    count = len(values)
    apart = float(values.std(ddof=1)) if count > 1 else np.nan
    half = float(student.ppf((1 + LEVEL) / 2, count - 1)) * apart / np.sqrt(count) if count > 1 else np.nan
    mean = float(values.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half, "apart": apart, "checkpoints": count}


def _gains(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """HIES minus HIS of one checkpoint and draw, mean over the draws: a line a checkpoint, curve, ratio and measure."""
    keys = [key for key in (*PROTOCOL_KEYS, "checkpoint", "data", "ratio") if key in rows]
    pruned = rows[rows["ratio"] > 0]
    named = pruned[[*keys, "criterion", "curve", *measures]]  # of a row's own keys, one is called `value`
    long = named.melt([*keys, "criterion", "curve"], [*measures], "measure")
    his = long[long["criterion"] == "his"].drop(columns=["criterion", "curve"])
    if his.duplicated([*keys, "measure"]).any():
        raise Unavailable("it cannot choose between several curves of HIS")
    both = long[long["criterion"] == "hies"].merge(his, on=[*keys, "measure"], suffixes=("", "_his"))
    both = both.assign(mean=both["value"] - both["value_his"])
    return both.groupby(["task", "checkpoint", "curve", "ratio", "measure"])["mean"].mean().reset_index()
