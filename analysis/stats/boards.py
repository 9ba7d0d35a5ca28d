"""Leaderboards: which rows may stand in one, the mean over tasks, and ranks with intervals over calibration draws."""

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from analysis.stats.intervals import LEAST_DRAWS, LEVEL
from analysis.stats.pairing import PROTOCOL_KEYS
from analysis.text.labels import OF_A_TASK, SETTING
from analysis.text.measures import averaged

RANK_DRAWS = 1_000
# What rows must share to stand in one leaderboard; OF_A_TASK those of one task.
COMPARED = [key for key in PROTOCOL_KEYS if key not in (*SETTING, "seed")]


def unusual_settings(rows: pd.DataFrame) -> pd.Series:
    """Returns for each row in words which settings it does not share with most runs; empty if none.

    What a task has of its own it need share with most runs of its task alone. Of several settings that are as frequent
    none is the usual one.
    """
    runs = rows.drop_duplicates("path").set_index("path")
    words = pd.Series("", index=runs.index)
    for key in (key for key in COMPARED if key in runs):
        within = runs["task"] if key in OF_A_TASK else runs["task"].map(lambda _: "all tasks")
        total = runs.groupby(within)["seed"].transform("size")
        alike = runs.groupby([within, key], dropna=False)["seed"].transform("size")
        named = runs[key].map(lambda value, key=key: f", {key.replace('_', ' ')} {'none' if pd.isna(value) else value}")
        words += named.where((2 * alike <= total) & (alike < total), "")
    return rows["path"].map(words.str.removeprefix(", "))


def mean_of_tasks(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Returns curve, seed, ratio and the mean of `column` over tasks, only where every task of `rows` has a number.

    Of a loss it is over the tasks of one unit, of quality over those above chance, see `averaged`.
    """
    rows = averaged(rows, column)
    if rows.empty:
        return pd.DataFrame(columns=["curve", "seed", "ratio", column], dtype=float)
    wide = rows.pivot_table(index=["curve", "seed", "ratio"], columns="task", values=column, dropna=False)
    whole = wide.reindex(columns=sorted(rows["task"].unique())).dropna()
    return whole.mean(axis=1).rename(column).reset_index()


def ranks(values: pd.DataFrame, better: int) -> pd.DataFrame:
    """Returns rank, low and high of each curve; 1 is the best, and equals share the better rank.

    Args:
        values: a line a curve, a column a seed, NaN where the curve lacks it. The interval is over the seeds that all
            curves of several seeds have, the same draws for all: of fewer than five the range of the ranks by each
            draw and by their mean. A curve of one seed has its number in every draw. Resampled means are stretched
            around the mean as far as a t interval is wider than the bootstrap's of so few seeds.
        better: 1 where more is better, -1 where less is.
    """
    if values.empty:
        return pd.DataFrame(columns=["rank", "low", "high"], dtype=float)
    rank = _ranked(values.mean(axis=1).to_frame().T, better).iloc[0]
    several = values.notna().sum(axis=1) > 1
    seeds = values.loc[several].notna().all()
    count = int(seeds.sum()) if several.any() else 0
    if count < 2:
        return pd.DataFrame({"rank": rank, "low": np.nan, "high": np.nan})
    shared = values.loc[:, seeds].where(several, values.mean(axis=1), axis=0)
    weights = np.vstack([np.eye(count), np.full(count, 1 / count)])  # each draw alone, and their mean, [draws, seeds]
    if count >= LEAST_DRAWS:
        drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RANK_DRAWS) / count
        stretch = np.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2)
        weights = 1 / count + stretch * (drawn - 1 / count)
    ranked = _ranked(pd.DataFrame(weights @ shared.to_numpy().T, columns=values.index), better)
    tail = (1 - LEVEL) / 2 if count >= LEAST_DRAWS else 0.0
    return pd.DataFrame({"rank": rank, "low": ranked.quantile(tail), "high": ranked.quantile(1 - tail)})


def _ranked(draws: pd.DataFrame, better: int) -> pd.DataFrame:
    """Ranks in each line; what differs by rounding alone is equal."""
    return draws.round(9).rank(axis=1, method="min", ascending=better < 0)
