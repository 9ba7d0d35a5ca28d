"""Intervals over seeds: the percentile bootstrap of the mean."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

LEVEL = 0.95
DRAWS = 10_000


class Interval(NamedTuple):
    """A mean with its bootstrap interval; low and high are NaN where n < 2."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: np.ndarray | list[float], level: float = LEVEL, draws: int = DRAWS) -> Interval:
    """The mean of the defined values and its percentile bootstrap interval, the same on every call.

    With two or three values the 95 % interval is their range: the smallest value alone makes up at least 1/27 of
    all resamples, more than 2.5 %. Read such an interval as a range, not as 95 % coverage.
    """
    defined = np.sort(np.asarray(values, dtype=float))  # sorted: the interval must not depend on the order
    defined = defined[~np.isnan(defined)]
    n = len(defined)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    if n == 1:
        return Interval(float(defined[0]), np.nan, np.nan, 1)
    means = defined[_resamples(n, draws)].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(defined.mean()), float(low), float(high), n)


def summarise(rows: pd.DataFrame, column: str, by: list[str]) -> pd.DataFrame:
    """Mean, low, high, n (defined values) and seeds (all values) of `column` for each group of `by`."""
    records = []
    for key, group in rows.groupby(by, dropna=False, sort=False):
        interval = mean_interval(group[column].to_numpy())
        records.append({**dict(zip(by, key, strict=True)), **interval._asdict(), "seeds": len(group)})
    return pd.DataFrame(records, columns=[*by, *Interval._fields, "seeds"])


@cache
def _resamples(n: int, draws: int) -> np.ndarray:
    """Indices [draws, n] of the resamples; a fixed seed makes every figure reproducible byte for byte."""
    return np.random.default_rng(0).integers(0, n, size=(draws, n))
