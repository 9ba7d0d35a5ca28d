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
    if measure == TEMPERED:
        return _with_tempered(rows)
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


def _with_tempered(rows: pd.DataFrame) -> pd.DataFrame:
    values = pd.Series(np.nan, index=rows.index)
    for path, run in rows[rows["loss"].notna()].groupby("path"):
        arrays = load_arrays({"path": path})
        if "losses" in arrays:
            answers, losses = (lines_at(arrays, name, run["ratio"]) for name in ("predictions", "losses"))
            values[run.index] = tempered_losses(arrays["labels"], answers, losses).mean(axis=1)
    return rows.assign(**{TEMPERED: values})
