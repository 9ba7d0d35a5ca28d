"""What is measured from the answers beside the rows: how scores agree with those of the unpruned model."""

import numpy as np
import pandas as pd

from analysis.data.scores import lines_at, load_arrays
from analysis.stats.resampling import score_agreement
from analysis.text.measures import CORRELATION, REFIT
from hies.runs.quality import SQUARED


def with_measure(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Returns the rows with a number in this measure, if it is one of those that rows lack and answers have.

    Raises:
        Unavailable: a run has no answers.
    """
    if measure not in (REFIT, CORRELATION):
        return rows
    values = rows["stability"].copy() if measure == REFIT else pd.Series(np.nan, index=rows.index)
    for path, run in rows[rows["metric"].isin(SQUARED)].groupby("path"):
        arrays = load_arrays({"path": path})
        unpruned = lines_at(arrays, "predictions", [0.0])
        pruned = lines_at(arrays, "predictions", run["ratio"])
        agreement = score_agreement(pruned, unpruned, np.ones((1, unpruned.size)))
        values[run.index] = agreement[measure][0]
    return rows.assign(**{measure: values})
