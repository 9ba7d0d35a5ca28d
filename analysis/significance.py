"""Curve minus curve with intervals over calibration seeds AND evaluation examples: a paired bootstrap.

One draw takes the seeds of a task with replacement, and its examples with replacement, the same for both curves, for
every ratio and for both measures; so any mean over ratios has its interval too. Tasks are drawn independently.
Shapes: draws D, seeds S, ratios R.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.choice import PREFERRED
from analysis.errors import Unavailable
from analysis.labels import criterion_name, ordered_curves, ordered_tasks
from analysis.pairing import paired
from analysis.resampling import Runs, example_counts, read_runs, seed_counts
from analysis.statistics import LEVEL

DRAWS = 1_000


class Estimate(NamedTuple):
    """A mean over seeds with its interval; NaN where there is none.

    undefined_seeds: left out of the mean. undefined_draws: left out of the interval, because a seed that was drawn, or
    the examples that were, leave the metric undefined.
    """

    mean: float
    low: float
    high: float
    seeds: int
    undefined_seeds: int
    draws: int
    undefined_draws: int


@dataclass(frozen=True)
class Sample:
    """A mean and its bootstrap draws [D], NaN where undefined."""

    mean: float
    draws: np.ndarray
    seeds: int
    undefined_seeds: int

    def estimate(self, level: float = LEVEL) -> Estimate:
        """Mean and percentile interval."""
        defined = self.draws[~np.isnan(self.draws)]
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if len(defined) else (np.nan, np.nan)
        lost = len(self.draws) - len(defined)
        return Estimate(
            self.mean, float(low), float(high), self.seeds, self.undefined_seeds, len(self.draws), lost
        )  # fmt: skip


@dataclass(frozen=True)
class Gain:
    """One curve minus its reference in one measure, in percentage points, for one task.

    against: the curve of the reference. ratios: [R]. reference, values: the measure itself, [S, R]. gains: [S, R].
    resampled: the gains on the resampled examples, [D, S, R]. counts: how often each draw takes each seed, [D, S].
    """

    task: str
    curve: str
    against: str
    measure: str
    ratios: np.ndarray
    reference: np.ndarray
    values: np.ndarray
    resampled: np.ndarray
    counts: np.ndarray

    @property
    def gains(self) -> np.ndarray:
        """Curve minus reference of each seed and ratio, [S, R]."""
        return self.values - self.reference

    def over(self, chosen: np.ndarray) -> Sample:
        """The mean over the chosen ratios (boolean [R]) and over the seeds."""
        by_seed = self.gains[:, chosen].mean(axis=1)
        defined = ~np.isnan(by_seed)
        draws = np.full(len(self.counts), np.nan)
        if defined.sum() > 1:  # one seed says nothing about seeds
            by_draw = self.resampled[:, :, chosen].mean(axis=2)
            taken = np.where(self.counts > 0, self.counts * by_draw, 0)  # an undefined seed counts only where drawn
            draws = taken.sum(axis=1) / self.counts.sum(axis=1)
        mean = float(by_seed[defined].mean()) if defined.any() else np.nan
        return Sample(mean, draws, len(by_seed), int((~defined).sum()))


def mean_over_tasks(samples: Sequence[Sample]) -> Sample:
    """The mean of tasks that were drawn independently; undefined where any of them is."""
    return Sample(
        float(np.mean([sample.mean for sample in samples])),
        np.mean([sample.draws for sample in samples], axis=0),
        min(sample.seeds for sample in samples),
        sum(sample.undefined_seeds for sample in samples),
    )


def gains(rows: pd.DataFrame, draws: int = DRAWS) -> list[Gain]:
    """Quality, stability and evenness of each task and each HIES curve whose alpha was chosen, against HIS.

    Raises:
        Unavailable: no such curve, no partner of HIS, no predictions, or a metric that is not known here.
    """
    chosen = rows["alpha"].isin(PREFERRED) if "alpha" in rows else pd.Series(False, index=rows.index)
    if not (chosen & (rows["ratio"] > 0)).any():
        raise Unavailable("there are no rows of hies with alpha per_ratio, per_task or auto")
    rows = rows[chosen | (rows["criterion"] == "his")]
    pairs = paired(rows).rename(columns={"path_his": "path_against"})
    return differences(rows, pairs.assign(against=criterion_name("his")), draws)


def differences(rows: pd.DataFrame, pairs: pd.DataFrame, draws: int = DRAWS) -> list[Gain]:
    """Quality, stability and evenness of each task and each pair of a curve and its reference.

    rows: of both. pairs: rows of the curve with the columns against and path_against, the reference and its run of
    the same seed.

    Raises:
        Unavailable: no ratio in common, no predictions, other examples, or a metric that is not known here.
    """
    found: list[Gain] = []
    for task in ordered_tasks(pairs["task"]):
        mine = pairs[pairs["task"] == task]
        runs = read_runs(rows[rows["path"].isin({*mine["path"], *mine["path_against"]})])
        found += _of_task(mine, runs, draws)
    return found


def _of_task(pairs: pd.DataFrame, runs: Runs, draws: int) -> Iterator[Gain]:
    task = str(pairs["task"].iloc[0])
    measured = runs.measured(example_counts(task, len(runs.labels), draws))
    place = {path: i for i, path in enumerate(runs.paths)}
    for curve in ordered_curves(pairs):
        for against, both in pairs[pairs["curve"] == curve].groupby("against", sort=False):
            jobs = both.drop_duplicates("seed").sort_values("seed")
            own, other = ([place[path] for path in jobs[column]] for column in ("path", "path_against"))
            counts = seed_counts(task, len(jobs), draws)
            for measure, (values, resampled) in measured.items():
                gained = resampled[:, own] - resampled[:, other]
                pair = (values[other], values[own], gained)
                yield Gain(task, curve, str(against), measure, runs.ratios, *pair, counts)
