"""HIES minus HIS over several fine-tuned checkpoints of a task: what the checkpoint of the next user will do."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.stats.intervals import LEAST_DRAWS, TOO_FEW, side_of_zero, t_ends
from analysis.stats.pairing import paired
from analysis.tables.beside import side_by_side, signed
from analysis.text.captions import caption, percent
from analysis.text.labels import in_order, task_name, without_word
from analysis.text.measures import ALL_MEASURES, MEASURE_OF, difference_units, measured, notes

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
        few = row["checkpoints"] < LEAST_DRAWS
        verdict = TOO_FEW if few else side_of_zero(row["low"], row["high"], measure.better)
        apart = f"{row['apart']:.{measure.digits}f}"
        return {measure.words: f"{verdict}: {signed(row)}", f"{measure.words}, apart": apart}

    shown = side_by_side(named, ["task", "criterion", "removed", "checkpoints"], cells)
    text = (
        f"HIES minus HIS in {difference_units(measures, plain)}, mean over checkpoints that were fine-tuned with other "
        f"seeds: {caption(plain)}. Brackets: 95 % t interval over the checkpoints alone, of each the mean over its "
        "draws; that of findings counts the examples, too. Apart: standard deviation of these means. Ahead or behind: "
        f"the interval excludes 0, not corrected for their number; of fewer than {LEAST_DRAWS} checkpoints there is "
        "no verdict."
    )
    return Table(shown, data, text + notes(measures, plain, differences=True))


def over_checkpoints(means: Sequence[float] | pd.Series) -> dict[str, float]:
    """Returns mean, t interval and standard deviation of the means of several checkpoints; NaN where one is too few."""
    values = np.asarray(means, dtype=float)
    count = len(values)
    apart = float(values.std(ddof=1)) if count > 1 else np.nan
    mean = float(values.mean())
    low, high = t_ends(mean, apart**2 / count, count - 1)
    return {"mean": mean, "low": low, "high": high, "apart": apart, "checkpoints": count}


def _gains(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """HIES minus HIS of one checkpoint, mean over its draws: a line a checkpoint, curve, ratio and measure."""
    columns = {f"{measure}_gain": measure for measure in measures}
    means = paired(rows).groupby(["task", "checkpoint", "curve", "ratio"])[[*columns]].mean().rename(columns=columns)
    return means.melt(value_vars=[*measures], var_name="measure", value_name="mean", ignore_index=False).reset_index()
