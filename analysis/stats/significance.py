"""Curve minus curve with intervals over calibration draws AND evaluation examples, paired.

Two sources of chance add up to the variance of a difference on a task: the draws of the calibration set, whose
variance is that of their mean, and the examples, which are drawn again with replacement, the same for both curves, for
every ratio and for all measures; so any mean over ratios has its interval too. Intervals are t intervals. A mean over
tasks has two: one of these tasks, and one that counts the tasks as drawn too (`Sample.over_tasks`).
Shapes: bootstrap draws D, seeds S, ratios R.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.chance import at_chance
from analysis.errors import Unavailable
from analysis.stats.intervals import LEAST_DRAWS, LEVEL, THE_SAME, TOO_FEW, or_equal, p_value, side_of_zero, t_ends
from analysis.stats.pairing import paired
from analysis.stats.resampling import measured_runs
from analysis.text.choice import PREFERRED
from analysis.text.labels import criterion_name, ordered_curves, ordered_tasks
from analysis.text.measures import NATS, measure_of, unit
from hies.runs.folders import warn_of_rows

DRAWS = 1_000
MEAN = "mean"  # in the place of a task: the mean over tasks
ChosenRatios = Callable[[np.ndarray], np.ndarray]  # ratios [R] -> boolean [R]


# Columns of an estimate: the mean over seeds (NaN where none has a number) and the ends of its interval (NaN without;
# of few seeds the range), its p value, the margin within which it is shown to be 0 and the one that counts as equal,
# seeds and those left out of the mean, draws and those left out of the interval (the metric is undefined for the
# examples that were drawn), what limits a verdict of a mean over tasks (`Sample.scope`), and the verdict, which is
# nothing where there is no mean.
ESTIMATE = ("mean", "low", "high", "p", "within", "margin", "seeds", "undefined_seeds", "draws", "undefined_draws",
            "scope", "verdict")  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A mean over seeds, and over tasks if there are several, and what its interval is made of.

    Attributes:
        by_task: the mean of each task, one for a single task, [T].
        by_seed: [S], NaN where undefined; empty where tasks have different numbers of seeds.
        variance: of the mean, over seeds and examples.
        df: its degrees of freedom.
        seeds: how many there are, of the task with the fewest.
        known_seeds: how many have a number, of the task with the fewest.
        undefined_seeds: how many have none, of all tasks.
        draws: how often the examples were drawn.
        undefined_draws: in how many of them a seed has no number.
        better: the sign of what is ahead, see `analysis.text.measures`.
        margin: what counts as equal; NaN for none.
        parts: the samples of the tasks that a mean is over.
        ratios: which the mean is over.
    """

    by_task: np.ndarray
    by_seed: np.ndarray
    variance: float
    df: float
    seeds: int
    known_seeds: int
    undefined_seeds: int
    draws: int
    undefined_draws: int
    better: int = 1
    margin: float = np.nan
    parts: tuple["Sample", ...] = ()
    ratios: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Of the tasks; NaN where one has none."""
        return float(self.by_task.mean())

    @property
    def tasks(self) -> int:
        """How many the mean is over."""
        return len(self.by_task)

    def estimate(self) -> dict[str, Any]:
        """Returns mean, interval and verdict on these very tasks: the columns ESTIMATE."""
        known, verdict = self.by_seed[~np.isnan(self.by_seed)], TOO_FEW
        low, high = (known.min(), known.max()) if len(known) > 1 else (np.nan, np.nan)
        test = {"low": low, "high": high, "p": np.nan, "within": np.nan}
        if self.known_seeds >= LEAST_DRAWS:
            test = _t_test(self.mean, self.variance, self.df)
            # Equal on these tasks is not enough where there are some to tell of others.
            test["within"] = float(np.fmax(test["within"], self.over_tasks()["within"]))
            side = side_of_zero(test["low"], test["high"], self.better)
            verdict = or_equal(side, test["within"], self.margin)
            if self.variance == 0 and not known.any() and not self.by_task.any():  # of every draw and example
                verdict = THE_SAME
        said = {**test, "verdict": "" if np.isnan(self.mean) else verdict}
        return {name: said[name] if name in said else getattr(self, name) for name in ESTIMATE}

    def over_tasks(self) -> dict[str, float]:
        """Returns low, high, p and within where the tasks count as drawn as well; NaN for too few of them."""
        if self.tasks < LEAST_DRAWS:
            return dict.fromkeys(("low", "high", "p", "within"), np.nan)
        return _t_test(self.mean, self.by_task.var(ddof=1) / self.tasks, self.tasks - 1)

    @property
    def extreme(self) -> int:
        """The place of the task without which the mean would change most."""
        return int(np.abs(self.by_task - self.mean).argmax())

    def rest(self) -> "Sample":
        """Returns the mean without its most extreme task."""
        return mean_over_tasks([part for place, part in enumerate(self.parts) if place != self.extreme])

    @property
    def scope(self) -> str:
        """What a verdict on these tasks does not reach: other tasks, or any without the most extreme one."""
        if self.tasks < 3:
            return " on these tasks" * (self.tasks > 1)
        side, rest = np.sign(self.mean), self.rest()
        over = side * np.array([self.over_tasks()[end] for end in ("low", "high")])
        left = side * np.array(t_ends(rest.mean, rest.variance, rest.df))
        return f"{' on these tasks' * (not (over > 0).all())}{': one task' * bool((left <= 0).any())}"


def _t_test(mean: float, variance: float, df: float) -> dict[str, float]:
    low, high = t_ends(mean, variance, df)
    within = max(map(abs, t_ends(mean, variance, df, 2 * LEVEL - 1)))
    return {"low": low, "high": high, "p": p_value(mean, variance, df), "within": within}


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
    at_chance: bool = False

    @property
    def gains(self) -> np.ndarray:
        """Curve minus reference of each seed and ratio, [S, R]."""
        return self.values - self.reference

    def over(self, chosen: np.ndarray) -> Sample:
        """Returns the mean over the chosen ratios (boolean [R]) and over the seeds."""
        measure = measure_of(self.measure)
        sample = of_seeds(self.by_seed(chosen), measure.better, measure.margin, self.by_draw(chosen))
        return replace(sample, ratios=tuple(self.ratios[chosen].tolist()))

    def by_seed(self, chosen: np.ndarray) -> np.ndarray:
        """Returns the mean over the chosen ratios of each seed, [S], NaN where undefined."""
        return self.gains[:, chosen].mean(axis=1)

    def by_draw(self, chosen: np.ndarray) -> np.ndarray:
        """Returns the mean over the chosen ratios and the seeds on each resample of the examples, [D]."""
        defined = ~np.isnan(self.by_seed(chosen))
        if not defined.any():
            return np.full(len(self.resampled), np.nan)
        # An undefined seed is left out; a draw in which another seed is undefined tells nothing of the examples.
        return self.resampled[:, defined][:, :, chosen].mean(axis=(1, 2))


def of_checkpoints(gains: Sequence[Gain], at: ChosenRatios) -> Sample:
    """Returns the mean over checkpoints of one task, each the mean over its own draws; they stand where seeds do."""
    parts = [(gain, at(gain.ratios)) for gain in gains]
    samples = [gain.over(chosen) for gain, chosen in parts]
    # The resamples are the same ones for every checkpoint: [checkpoints, D] -> [D].
    by_draw = np.mean([gain.by_draw(chosen) for gain, chosen in parts], axis=0)
    first, means = samples[0], np.array([sample.mean for sample in samples])
    return replace(of_seeds(means, first.better, first.margin, by_draw), ratios=first.ratios)


def of_seeds(by_seed: np.ndarray, better: int, margin: float, by_draw: np.ndarray | None = None) -> Sample:
    """Returns the mean over seeds, [S]; `by_draw` are those on resampled examples, [D], NaN where undefined."""
    known = by_seed[~np.isnan(by_seed)]
    drawn = np.zeros(1) if by_draw is None else by_draw[~np.isnan(by_draw)]
    of_means = known.var(ddof=1) / len(known) if len(known) > 1 else np.nan  # one seed says nothing about seeds
    variance = of_means + (drawn.var() if len(drawn) else np.nan)
    # Satterthwaite: there are few seeds and many examples.
    df = (len(known) - 1) * (variance / of_means) ** 2 if of_means > 0 else np.inf
    draws = 0 if by_draw is None else len(by_draw)
    counts = (len(by_seed), len(known), len(by_seed) - len(known), draws, max(draws - len(drawn), 0))
    mean = np.array([known.mean() if len(known) else np.nan])
    return Sample(mean, by_seed, float(variance), float(df), *counts, better, margin)


def mean_over_tasks(samples: Collection[Sample]) -> Sample:
    """Returns the mean of tasks that were drawn independently; undefined where any of them is."""
    first, count = next(iter(samples)), len(samples)
    parts = np.array([sample.variance for sample in samples]) / count**2
    freedom = np.array([sample.df for sample in samples])
    shares = (parts**2 / freedom).sum()
    alike = len({len(sample.by_seed) for sample in samples}) == 1
    return Sample(
        np.concatenate([sample.by_task for sample in samples]),
        np.mean([sample.by_seed for sample in samples], axis=0) if alike else np.array([]),
        parts.sum(),
        parts.sum() ** 2 / shares if shares else np.inf,
        min(sample.seeds for sample in samples),
        min(sample.known_seeds for sample in samples),
        sum(sample.undefined_seeds for sample in samples),
        first.draws,
        max(sample.undefined_draws for sample in samples),
        first.better,
        first.margin,
        tuple(samples),
        first.ratios,
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
    """Returns the mean over the ratios `at` for each task that has any, and under MEAN that of several tasks.

    The mean over tasks is over the ratios that all of them have; there is none without any.
    """
    samples = {gain.task: gain.over(chosen) for gain in gains if (chosen := at(gain.ratios)).any()}
    together = [gain for gain in averaged_gains(gains) if gain.task in samples]
    shared = [*set.intersection(*({*samples[gain.task].ratios} for gain in together))] if together else []
    if len(together) < 2 or not shared:
        return samples
    return {**samples, MEAN: mean_over_tasks([gain.over(np.isin(gain.ratios, shared)) for gain in together])}


def estimates(gains: Sequence[Gain], windows: Mapping[Any, ChosenRatios]) -> Iterator[dict[str, Any]]:
    """Yields a line for each curve, reference, measure and window, and in it as `samples_at`.

    Its keys: criterion, against, measure, window, task, tasks (how many the mean is over), ratios (which), ESTIMATE.
    """
    parts: dict[tuple[str, str, str], list[Gain]] = {}
    for gain in gains:
        parts.setdefault((gain.curve, gain.against, gain.measure), []).append(gain)
    for (key, part), (window, at) in product(parts.items(), windows.items()):
        line = {**dict(zip(("criterion", "against", "measure"), key, strict=True)), "window": window}
        for task, one in samples_at(part, at).items():
            ratios = " ".join(f"{ratio:g}" for ratio in one.ratios)
            yield {**line, "task": task, "tasks": one.tasks, "ratios": ratios, **one.estimate()}


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
        Unavailable: no pair with a ratio in common, no predictions, other examples, a metric that is not known here,
            or several runs of a curve on a task for one seed, as of two models.
    """
    gains: list[Gain] = []
    for task in ordered_tasks(pairs["task"]):
        of_task = pairs[pairs["task"] == task]
        gains += _of_task(task, of_task, rows[rows["path"].isin({*of_task["path"], *of_task["path_against"]})], draws)
    if not gains:
        raise Unavailable("no two curves that are compared have a ratio in common")
    lost = {measure: at_chance(rows, measure) for measure in {gain.measure for gain in gains}}
    return [replace(gain, at_chance=gain.task in lost[gain.measure]) for gain in gains]


def _of_task(task: str, pairs: pd.DataFrame, rows: pd.DataFrame, draws: int) -> Iterator[Gain]:
    """The gains of each pair of curves, at the ratios that all of their runs have; none of a pair without any."""
    paths, ratios, there, measured = measured_runs(rows, draws)
    metric = rows["metric"].iloc[0]
    place = {path: i for i, path in enumerate(paths)}
    for curve in ordered_curves(pairs):
        for against, both in pairs[pairs["curve"] == curve].groupby("against", sort=False):
            jobs = both.drop_duplicates(["seed", "path", "path_against"]).sort_values("seed")
            if jobs["seed"].duplicated().any():
                raise Unavailable(f"there are several runs of {curve} or of {against} on {task} for one seed")
            own, other = ([place[path] for path in jobs[column]] for column in ("path", "path_against"))
            shared = there[own + other].all(axis=0)
            if not shared.any():
                warn_of_rows(f"{curve} and {against} have no ratio in common on {task} and are not compared there.")
                continue
            for measure, (values, resampled) in measured.items():
                gained = resampled[:, own] - resampled[:, other]
                pair = (values[other][:, shared], values[own][:, shared], gained[:, :, shared])
                yield Gain(task, curve, str(against), measure, unit(measure, metric), ratios[shared], *pair)
