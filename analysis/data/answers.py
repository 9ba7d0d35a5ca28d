"""What is measured from the answers beside the rows: agreement of scores, loss after a temperature."""

import numpy as np
import pandas as pd

from analysis.data.scores import lines_at, load_arrays
from analysis.stats.resampling import score_agreement, tempered_losses
from analysis.text.measures import CORRELATION, REFIT, TEMPERED
from hies.runs.quality import SQUARED


def with_measure(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Returns the rows with a number in this measure, if it is one of those that rows lack and answers have.

    Raises:
        Unavailable: a run has no answers.
    """
    if measure not in (REFIT, CORRELATION, TEMPERED):
        return rows
    values = rows["stability"].copy() if measure == REFIT else pd.Series(np.nan, index=rows.index)
    concerned = rows["loss"].notna() if measure == TEMPERED else rows["metric"].isin(SQUARED)
    for path, run in rows[concerned].groupby("path"):
        arrays = load_arrays({"path": path})
        pruned = lines_at(arrays, "predictions", run["ratio"])
        if measure != TEMPERED:
            unpruned = lines_at(arrays, "predictions", [0.0])
            values[run.index] = score_agreement(pruned, unpruned, np.ones((1, unpruned.size)))[measure][0]
        elif "losses" in arrays:
            losses = lines_at(arrays, "losses", run["ratio"])
            values[run.index] = tempered_losses(arrays["labels"], pruned, losses).mean(axis=1)
    return rows.assign(**{measure: values})
