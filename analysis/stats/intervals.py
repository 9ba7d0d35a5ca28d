"""Intervals over draws of the calibration set: t intervals, tests of equality, Holm's correction of many tests."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
LEAST_DRAWS = 5  # fewer give a range and no verdict
TOO_FEW, UNDECIDED, THE_SAME = "too few draws", "undecided", "the same"
TO_ONE_SIDE = ("ahead", "behind")


class Interval(NamedTuple):
    """A mean with its interval.

    Attributes:
        mean: of the defined values.
        low: lower end; NaN where n < 2.
        high: upper end; NaN where n < 2.
        n: number of defined values.
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: np.ndarray | list[float], level: float = LEVEL) -> Interval:
    """Returns the mean of the defined values and its t interval; of fewer than LEAST_DRAWS their range."""
    defined = np.sort(np.asarray(values, dtype=float))  # sorted: the mean must not depend on the order
    defined = defined[~np.isnan(defined)]
    n = len(defined)
    if n < 2:
        return Interval(float(defined[0]) if n else np.nan, np.nan, np.nan, n)
    mean = float(defined.mean())
    if n < LEAST_DRAWS:
        return Interval(mean, float(defined[0]), float(defined[-1]), n)
    return Interval(mean, *t_ends(mean, defined.var(ddof=1) / n, n - 1, level), n)


def t_ends(mean: float, variance: float, df: float, level: float = LEVEL) -> tuple[float, float]:
    """Returns the ends of the t interval of a mean of this variance, that has so many degrees of freedom."""
    half = float(stdtrit(df, (1 + level) / 2) * np.sqrt(variance))
    return mean - half, mean + half


def p_value(mean: float, variance: float, df: float) -> float:
    """Returns that of the two-sided t test of a mean against 0."""
    if variance == 0:
        return float(mean == 0)
    return float(2 * stdtr(df, -abs(mean) / np.sqrt(variance)))


def side_of_zero(low: float, high: float, better: int = 1) -> str:
    """Returns `ahead` or `behind` if the interval excludes 0, else `undecided`.

    `better` is the sign of what is ahead: -1 for a loss.
    """
    if low > 0 or high < 0:
        return "ahead" if (low > 0) == (better > 0) else "behind"
    return UNDECIDED


def or_equal(verdict: str, within: float, margin: float) -> str:
    """Returns `equal within MARGIN` in the place of `undecided` where a test of equality shows it.

    Args:
        verdict: of the interval.
        within: the end that is farther from 0 of the interval of level 0.9, so that the test has level 0.05.
        margin: what counts as equal; NaN for none.
    """
    return f"equal within {margin:g}" if verdict == UNDECIDED and within <= margin else verdict


def holm(p: np.ndarray) -> np.ndarray:
    """Returns p values corrected for how many there are (Holm 1979); NaN is no test and stays."""
    corrected, (tests,) = np.full(len(p), np.nan), np.nonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return corrected


def corrected(lines: pd.DataFrame, families: pd.Series) -> pd.DataFrame:
    """Returns the lines of a table with `p_holm`, corrected within each family, verdicts after it and their scope.

    Args:
        lines: with p, within, margin, scope and verdict.
        families: for each line that to which it belongs.
    """
    adjusted = lines.groupby(families)["p"].transform(lambda p: holm(p.to_numpy(dtype=float)))
    decided = lines["verdict"].isin(TO_ONE_SIDE)
    lost = decided & (adjusted > 1 - LEVEL)
    limited = lines["verdict"].where(~decided, lines["verdict"] + lines["scope"])
    return lines.assign(p_holm=adjusted, verdict=limited.mask(lost, equal_or_undecided(lines)))


def equal_or_undecided(lines: pd.DataFrame) -> pd.Series:
    """Returns the verdict of each line of a table, with within and margin, that is on no side of 0; see `or_equal`."""
    pairs = zip(lines["within"], lines["margin"], strict=True)
    return pd.Series([or_equal(UNDECIDED, *pair) for pair in pairs], index=lines.index)


def summarise(rows: pd.DataFrame, column: str, by: list[str]) -> pd.DataFrame:
    """Returns mean, low, high, n (defined values) and seeds (all values) of `column` for each group of `by`."""
    records: list[dict[str, Any]] = []
    for key, group in rows.groupby(by, dropna=False, sort=False):
        interval = mean_interval(group[column].to_numpy())
        records.append({**dict(zip(by, key, strict=True)), **interval._asdict(), "seeds": len(group)})
    return pd.DataFrame(records, columns=[*by, *Interval._fields, "seeds"])
