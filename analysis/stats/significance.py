"""Curve minus curve with intervals over calibration seeds AND evaluation examples: a paired bootstrap.

One draw takes the seeds of a task with replacement, and its examples with replacement, the same for both curves, for
every ratio and for all measures; so any mean over ratios has its interval too. Tasks are drawn independently.
Shapes: draws D, seeds S, ratios R.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.chance import at_chance
from analysis.errors import Unavailable
from analysis.stats.intervals import percentiles, side_of_zero
from analysis.stats.pairing import paired
from analysis.stats.resampling import measured_runs, seed_counts
from analysis.text.choice import PREFERRED
from analysis.text.labels import criterion_name, ordered_curves, ordered_tasks
from analysis.text.measures import NATS, better, unit

DRAWS = 1_000
MEAN = "mean"  # in the place of a task: the mean over tasks
ChosenRatios = Callable[[np.ndarray], np.ndarray]  # ratios [R] -> boolean [R]


# Columns of an estimate: the mean over seeds (NaN where none has a number) and the ends of its interval (NaN without),
# seeds and those left out of the mean, draws and those left out of the interval (the metric is undefined for a seed
# or the examples that were drawn), and `ahead`, `behind`, `undecided`, or nothing where there is no mean.
ESTIMATE = ("mean", "low", "high", "seeds", "undefined_seeds", "draws", "undefined_draws", "verdict")


@dataclass(frozen=True)
class Sample:
    """A mean and its bootstrap draws.

    Attributes:
        mean: over the seeds that have a number.
        draws: [D], NaN where undefined.
        seeds: how many there are.
        undefined_seeds: how many of them have no number.
        better: the sign of what is ahead, see `analysis.text.measures`.
        tasks: how many the mean is over.
    """

    mean: float
    draws: np.ndarray
    seeds: int
    undefined_seeds: int
    better: int = 1
    tasks: int = 1

    def estimate(self) -> dict[str, Any]:
        """Returns mean, percentile interval and verdict: the columns ESTIMATE."""
        defined = self.draws[~np.isnan(self.draws)]
        low, high = percentiles(defined)
        verdict = "" if np.isnan(self.mean) else side_of_zero(low, high, self.better)
        count = len(self.draws)
        numbers = (self.mean, low, high, self.seeds, self.undefined_seeds, count, count - len(defined))
        return dict(zip(ESTIMATE, (*numbers, verdict), strict=True))


@dataclass(frozen=True)
class Gain:
    """One curve minus its reference in one measure, in its unit, for one task.

    Attributes:
        task: the task.
        curve: the curve.
        against: the curve of the reference.
        measure: quality, stability, evenness or a loss.
        unit: of the measure on this task.
        ratios: [R].
        reference: the measure of the reference, [S, R].
        values: the measure of the curve, [S, R].
        resampled: the gains on the resampled examples, [D, S, R].
        counts: how often each draw takes each seed, [D, S].
        at_chance: whether the unpruned model is no better than a guess, so that no mean over tasks has the gain.
    """

    task: str
    curve: str
    against: str
    measure: str
    unit: str
    ratios: np.ndarray
    reference: np.ndarray
    values: np.ndarray
    resampled: np.ndarray
    counts: np.ndarray
    at_chance: bool = False

    @property
    def gains(self) -> np.ndarray:
        """Curve minus reference of each seed and ratio, [S, R]."""
        return self.values - self.reference

    def over(self, chosen: np.ndarray) -> Sample:
        """Returns the mean over the chosen ratios (boolean [R]) and over the seeds."""
        by_seed = self.gains[:, chosen].mean(axis=1)
        defined = ~np.isnan(by_seed)
        draws = np.full(len(self.counts), np.nan)
        if defined.sum() > 1:  # one seed says nothing about seeds
            by_draw = self.resampled[:, :, chosen].mean(axis=2)
            taken = np.where(self.counts > 0, self.counts * by_draw, 0)  # an undefined seed counts only where drawn
            draws = taken.sum(axis=1) / self.counts.sum(axis=1)
        mean = float(by_seed[defined].mean()) if defined.any() else np.nan
        return Sample(mean, draws, len(by_seed), int((~defined).sum()), better(self.measure))


def mean_over_tasks(samples: Collection[Sample]) -> Sample:
    """Returns the mean of tasks that were drawn independently; undefined where any of them is."""
    return Sample(
        float(np.mean([sample.mean for sample in samples])),
        np.mean([sample.draws for sample in samples], axis=0),
        min(sample.seeds for sample in samples),
        sum(sample.undefined_seeds for sample in samples),
        next(iter(samples)).better,
        len(samples),
    )


def averaged_gains(gains: Sequence[Gain]) -> list[Gain]:
    """Returns those of one measure that a mean over tasks is over, as `analysis.text.measures.averaged` has it."""
    several = len({gain.unit for gain in gains}) > 1
    return [gain for gain in gains if not gain.at_chance and (not several or gain.unit == NATS)]


def of_measures(gains: Sequence[Gain], measures: Collection[str]) -> list[Gain]:
    """Returns the gains in these measures.

    Raises:
        Unavailable: there are none; losses of single examples stand beside the rows, which older runs lack.
    """
    kept = [gain for gain in gains if gain.measure in measures]
    if not kept:
        raise Unavailable(f"no run has the {' or '.join(measures)} of single examples")
    return kept


def samples_at(gains: Sequence[Gain], at: ChosenRatios) -> dict[str, Sample]:
    """Returns the mean over the ratios `at` for each task that has any, and under MEAN that of several tasks."""
    samples = {gain.task: gain.over(chosen) for gain in gains if (chosen := at(gain.ratios)).any()}
    together = [samples[gain.task] for gain in averaged_gains(gains) if gain.task in samples]
    return {**samples, MEAN: mean_over_tasks(together)} if len(together) > 1 else samples


def ratios_at(gains: Sequence[Gain], at: ChosenRatios) -> str:
    """Returns which ratios these are, in words."""
    ratios = {ratio for gain in gains for ratio in gain.ratios[at(gain.ratios)].tolist()}
    return " ".join(f"{ratio:g}" for ratio in sorted(ratios))


def gains_over_his(rows: pd.DataFrame, draws: int = DRAWS) -> list[Gain]:
    """Returns every measure of each task and each HIES curve whose alpha was chosen, against HIS.

    Raises:
        Unavailable: no such curve, no partner of HIS, or as `curve_differences`.
    """
    chosen = rows["alpha"].isin(PREFERRED) if "alpha" in rows else pd.Series(False, index=rows.index)
    if not (chosen & (rows["ratio"] > 0)).any():
        raise Unavailable("there are no rows of hies with alpha per_ratio, per_task or auto")
    rows = rows[chosen | (rows["criterion"] == "his")]
    pairs = paired(rows).rename(columns={"path_his": "path_against"})
    return curve_differences(rows, pairs.assign(against=criterion_name("his")), draws)


def curve_differences(rows: pd.DataFrame, pairs: pd.DataFrame, draws: int = DRAWS) -> list[Gain]:
    """Returns quality, stability, evenness and losses of each task and each pair of a curve and its reference.

    Args:
        rows: of both.
        pairs: rows of the curve with the columns against and path_against, the reference and its run of the same seed.
        draws: of the bootstrap.

    Raises:
        Unavailable: no ratio in common, no predictions, other examples, or a metric that is not known here.
    """
    gains: list[Gain] = []
    for task in ordered_tasks(pairs["task"]):
        of_task = pairs[pairs["task"] == task]
        gains += _of_task(task, of_task, rows[rows["path"].isin({*of_task["path"], *of_task["path_against"]})], draws)
    lost = {measure: at_chance(rows, measure) for measure in {gain.measure for gain in gains}}
    return [replace(gain, at_chance=gain.task in lost[gain.measure]) for gain in gains]


def _of_task(task: str, pairs: pd.DataFrame, rows: pd.DataFrame, draws: int) -> Iterator[Gain]:
    paths, ratios, measured = measured_runs(rows, draws)
    metric = rows["metric"].iloc[0]
    place = {path: i for i, path in enumerate(paths)}
    for curve in ordered_curves(pairs):
        for against, both in pairs[pairs["curve"] == curve].groupby("against", sort=False):
            jobs = both.drop_duplicates("seed").sort_values("seed")
            own, other = ([place[path] for path in jobs[column]] for column in ("path", "path_against"))
            counts = seed_counts(task, len(jobs), draws)
            for measure, (values, resampled) in measured.items():
                gained = resampled[:, own] - resampled[:, other]
                pair = (values[other], values[own], gained)
                yield Gain(task, curve, str(against), measure, unit(measure, metric), ratios, *pair, counts)
