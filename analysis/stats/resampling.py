"""The runs of one task, measured on their examples and on resamples of them.

A resample of the examples is a vector of counts: every metric follows from sums, from a product of the matrix of
counts with a matrix of indicators or moments. Shapes: runs K, ratios R, examples N, draws D, seeds S, models M.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import expit

from analysis.data.scores import arrays_of_task, lines_at
from analysis.errors import Unavailable
from analysis.text.measures import CORRELATION, REFIT, TEMPERED
from hies.runs.quality import PERCENT, SQUARED, same_answer
from hies.runs.schema import LOSSES

EVENNESS = "evenness"
TEMPERATURES = np.log([1e-4, 1e4])  # between which the inverse of one lies
LEAST_LOSS, MOST_LOST = 1e-7, 0.01  # more than this share of losses below it, and no temperature can be found
COUNTS_AT_ONCE = 5_000_000  # of the matrix of counts [draws, examples] that is held at once

WeightedMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # labels, predictions, weights -> [D, M]
Measured = tuple[np.ndarray, np.ndarray]  # values [K, R], and those of all draws [D, K, R]


def measured_runs(rows: pd.DataFrame, draws: int) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, Measured]]:
    """Measures all runs of these rows of one task, on their examples and on resamples of them.

    Returns:
        the row file of each run, [K]; the pruned ratios that any of them has, [R]; which run has which, [K, R]; and
        for quality, stability, for scores their agreement (`score_agreement`), evenness and the losses that any run
        has, also after a temperature, the values, [K, R], and those on the resampled examples, [D, K, R]. Those of a
        ratio that a run lacks mean nothing.

    Raises:
        Unavailable: no pruned ratio, no predictions, other examples, or a metric that is not known here.
    """
    task, metric = rows["task"].iloc[0], rows["metric"].iloc[0]
    if metric not in WEIGHTED_METRICS:
        raise Unavailable(f"the metric {metric} of {task} cannot be recomputed on resampled examples")
    masks = {path: dict(zip(part["ratio"], part["mask"], strict=True)) for path, part in rows.groupby("path")}
    ratios = sorted(set().union(*masks.values()) - {0.0})
    if not ratios:
        raise Unavailable(f"the runs of {task} have no pruned ratio")
    there = np.array([[ratio in part for ratio in ratios] for part in masks.values()])
    # The unpruned model stands where a run lacks a ratio, so that all runs are measured in one go.
    lines = {path: [ratio if ratio in part else 0.0 for ratio in ratios] for path, part in masks.items()}
    arrays = arrays_of_task(masks, task)
    labels = next(iter(arrays.values()))["labels"]
    answers = np.array([lines_at(run, "predictions", [0.0, *lines[path]]) for path, run in arrays.items()])
    known = [name for name in LOSSES if any(name in run for run in arrays.values())]
    losses = {LOSSES[name]: _losses(arrays, name, lines) for name in known}
    if "loss" in losses:
        tempered = tempered_losses(labels, answers[:, 1:].reshape(losses["loss"].shape), losses["loss"])
        losses |= {} if np.isnan(tempered).all() else {TEMPERED: tempered}  # of two classes alone
    measure = partial(_measure, metric, labels, answers, losses)
    whole = measure(np.ones((1, len(labels))))
    parts = [measure(counts) for counts in example_counts(task, len(labels), draws)]
    values = {name: (whole[name][0], np.concatenate([part[name] for part in parts])) for name in whole}
    uneven = np.array([[_unevenness(arrays[path], part.get(ratio, {})) for ratio in ratios]
                       for path, part in masks.items()])  # fmt: skip
    resampled = np.broadcast_to(uneven, values["quality"][1].shape)  # examples do not change the heads
    return list(masks), np.array(ratios), there, values | {EVENNESS: (uneven, resampled)}


def unevenness(heads: Sequence[int], removed: Sequence[int]) -> float:
    """Returns the standard deviation over the sites of the share of their heads that is removed, in percent points."""
    return float(100 * np.std(np.array(removed) / np.array(heads)))


def example_counts(task: str, examples: int, draws: int) -> Iterator[np.ndarray]:
    """Yields matrices [some draws, N] of how often a draw takes each example; the same on every call."""
    generator = np.random.default_rng([0, zlib.crc32(task.encode())])
    at_once = max(1, COUNTS_AT_ONCE // examples)
    for start in range(0, draws, at_once):
        chosen = (generator.integers(0, examples, examples) for _ in range(start, min(start + at_once, draws)))
        yield np.array([np.bincount(one, minlength=examples) for one in chosen])


def _measure(
    metric: str, labels: np.ndarray, answers: np.ndarray, losses: dict[str, np.ndarray], counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Quality, stability and mean losses, [D, K, R].

    Answers are those of the unpruned model, then by ratio, [K, 1 + R, N]; losses [K R, N].
    """
    runs, ratios = len(answers), answers.shape[1] - 1
    flat = answers[:, 1:].reshape(runs * ratios, -1)  # [K, R, N] -> [K R, N]
    unpruned = np.repeat(answers[:, 0], ratios, axis=0)  # [K, N] -> [K R, N]
    quality = weighted_quality(metric, labels, flat, counts)
    stability = weighted_stability(flat, unpruned, counts)
    means = {name: _sums(each, counts) / _total(counts) for name, each in losses.items()}
    # [D, K R] -> [D, K, R]
    found = {"quality": quality, "stability": stability, REFIT: stability, **means}
    if metric in SQUARED:
        found |= score_agreement(flat, unpruned, counts)
    return {name: values.reshape(-1, runs, ratios) for name, values in found.items()}


def _losses(runs: Mapping[str, dict[str, np.ndarray]], name: str, ratios: Mapping[str, list[float]]) -> np.ndarray:
    """Losses of single examples at the ratios of each run, [K R, N]; NaN for a run without."""
    return np.concatenate([
        lines_at(run, name, ratios[path]) if name in run else np.full((len(ratios[path]), len(run["labels"])), np.nan)
        for path, run in runs.items()
    ])  # fmt: skip


def _unevenness(arrays: dict[str, np.ndarray], mask: dict[str, list[int]]) -> float:
    return unevenness(arrays["heads"].tolist(), [len(mask.get(str(site), ())) for site in arrays["sites"]])


def weighted_quality(metric: str, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns quality in percent, [D, M]; NaN where the metric is undefined.

    Args:
        metric: a key of WEIGHTED_METRICS.
        labels: [N].
        predictions: classes or scores, [M, N].
        weights: how often each example counts, [D, N].
    """
    return PERCENT[metric](WEIGHTED_METRICS[metric](labels, predictions, weights))


def weighted_stability(predictions: np.ndarray, unpruned: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the agreement of predictions with those of the unpruned model, both [M, N], in percent: [D, M]."""
    return 100 * _sums(same_answer(predictions, unpruned), weights) / _total(weights)


def score_agreement(scores: np.ndarray, unpruned: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Returns how scores agree with the unpruned ones, both [M, N], beyond stability: REFIT and CORRELATION, [D, M]."""
    unpruned = np.broadcast_to(unpruned, scores.shape)
    refit = weighted_stability(refitted(scores, unpruned), unpruned, weights)
    return {REFIT: refit, CORRELATION: 100 * _correlation(scores, unpruned, weights)}


def refitted(predictions: np.ndarray, unpruned: np.ndarray) -> np.ndarray:
    """Returns scores after the line of least squares that brings them to the unpruned ones; all [M, N].

    A pruned model may rank its answers as before on another scale, which alone changes what scores round to.
    """
    centred = predictions.astype(np.float64) - predictions.mean(axis=1, keepdims=True, dtype=np.float64)
    mean = unpruned.mean(axis=1, keepdims=True, dtype=np.float64)
    slope = _ratio((centred * (unpruned - mean)).sum(axis=1, keepdims=True), (centred**2).sum(axis=1, keepdims=True))
    return mean + np.nan_to_num(slope) * centred


def tempered_losses(labels: np.ndarray, answers: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Returns the losses of two classes after one temperature for each line, float32.

    NaN where there are not two classes, or too many losses are 0.

    A model that is pruned may be less sure of all that it answers, which alone lowers the loss of one that was too
    sure. The scores of a line are divided by the temperature that makes its mean loss least.

    Args:
        labels: [N].
        answers: [M, N].
        losses: mean cross-entropies in nats, [M, N]; NaN in the lines of runs that have none.
    """
    two = labels.dtype.kind in "iub" and {*np.unique(labels), *np.unique(answers)} <= {0, 1}
    # Of two classes the one with more than half of the probability is the answer.
    unlike = ((losses < np.log(2)) != (answers == labels)) & (np.abs(losses - np.log(2)) > 1e-3) & ~np.isnan(losses)
    if not two or unlike.any():
        return np.full(losses.shape, np.nan)
    # A loss that single precision rounds to 0 has lost its margin.
    lost = (losses < LEAST_LOSS).mean(axis=1, keepdims=True) > MOST_LOST
    exact = np.where(lost, np.nan, np.clip(losses.astype(np.float64), LEAST_LOSS / 100, 500))
    margins = -np.log(np.expm1(exact))  # of the right class over the other, since loss = log(1 + exp(-margin))
    low, high = (np.full((len(losses), 1), end) for end in TEMPERATURES)
    for _ in range(60):  # the mean loss is convex in the inverse temperature: halving finds where its slope is 0
        middle = (low + high) / 2
        falls = (margins * expit(-np.exp(middle) * margins)).mean(axis=1, keepdims=True) > 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    with np.errstate(invalid="ignore"):  # lines without a loss
        return np.logaddexp(0, -np.exp(low) * margins).astype(np.float32)


def _accuracy(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _sums(predictions == labels, weights) / _total(weights)


def _f1(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of class 1; undefined where neither labels nor predictions have it."""
    both = _sums((predictions == 1) & (labels == 1), weights)
    return _ratio(2 * both, _sums(predictions == 1, weights) + _sums((labels == 1)[None], weights))


def _mean_f1(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray, by_support: bool) -> np.ndarray:
    """The mean F1 of the classes, or of the labels in texts such as 0110, that a resample has on either side.

    `by_support` weighs each by how often it is right.
    """
    several = labels.dtype.kind == "U"
    if several:  # [N, labels] and [M, N, labels]
        labels, predictions = (np.char.encode(one)[..., None].view("S1") == b"1" for one in (labels, predictions))
        pairs = ((labels[:, i], predictions[..., i]) for i in range(labels.shape[-1]))
    else:
        pairs = ((labels == one, predictions == one) for one in np.union1d(labels, predictions))
    total = shares = np.zeros((len(weights), len(predictions)))
    for true, said in pairs:
        support = _sums(true[None], weights)
        f1 = _ratio(2 * _sums(said & true, weights), _sums(said, weights) + support)
        share = np.where(np.isnan(f1), 0, support if by_support else 1)
        total, shares = total + np.nan_to_num(f1) * share, shares + share
    return _ratio(total, shares)


def _next_token(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    right = np.char.startswith(labels[None], predictions) & (predictions != "")
    return _sums(right, weights) / _total(weights)


def _matthews(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The correlation of classes; 0 where either side has one class only, as scikit-learn and the paper have it."""
    total = _total(weights)
    covariance = total * _sums(predictions == labels, weights)
    variance_labels, variance_predictions = total**2, total**2
    for one in np.union1d(labels, predictions):
        predicted, true = _sums(predictions == one, weights), _sums((labels == one)[None], weights)
        covariance = covariance - predicted * true
        variance_predictions, variance_labels = variance_predictions - predicted**2, variance_labels - true**2
    return np.nan_to_num(_ratio(covariance, np.sqrt(variance_predictions * variance_labels)), nan=0.0)


def _pearson(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _correlation(predictions, labels[None], weights)


def _correlation(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r, [D, M]; undefined where the predictions, or the labels that were drawn, are constant."""
    x, y = _standardised(one), _standardised(other)
    total = _total(weights)
    mean_x, mean_y = _sums(x, weights) / total, _sums(y, weights) / total
    covariance = _sums(x * y, weights) / total - mean_x * mean_y
    variance_x, variance_y = _sums(x**2, weights) / total - mean_x**2, _sums(y**2, weights) / total - mean_y**2
    varied = (variance_x > 1e-12) & (variance_y > 1e-12)  # what rounding leaves of zero is far below
    return _ratio(covariance, np.where(varied, np.sqrt(np.abs(variance_x * variance_y)), 0))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Each line with mean 0 and variance 1, so that sums of squares keep their digits; NaN where it is constant."""
    values = values.astype(np.float64)
    deviation = values.std(axis=1, keepdims=True)
    constant = np.ptp(values, axis=1, keepdims=True) < 1e-6 * np.maximum(1, np.abs(values).max(axis=1, keepdims=True))
    centered = values - values.mean(axis=1, keepdims=True)
    return np.where(constant, np.nan, centered / np.where(constant, 1, deviation))


def _sums(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums over the examples, [D, M]; counts are exact in single precision, which is twice as fast."""
    exact = np.float32 if values.dtype == bool else np.float64
    return (weights.astype(exact) @ values.T.astype(exact)).astype(np.float64)  # [D, N] @ [N, M]


def _total(weights: np.ndarray) -> np.ndarray:
    return weights.sum(axis=1, keepdims=True, dtype=np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where it is 0 / 0."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)


WEIGHTED_METRICS: dict[str, WeightedMetric] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": partial(_mean_f1, by_support=False),
    "f1_weighted": partial(_mean_f1, by_support=True),
    "next_token": _next_token,
    "matthews": _matthews,
    "pearson": _pearson,
}
