"""Quality and stability of weighted examples, for many weightings and many predictions at once.

A bootstrap resample of the examples is a vector of counts, so that every metric follows from sums: from a product of
the matrix of counts with a matrix of indicators or moments. Shapes: draws D, models M, examples N.
"""

from collections.abc import Callable

import numpy as np

from hies.runs.quality import PERCENT, same_answer

WeightedMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # labels, predictions, weights -> [D, M]


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


def _accuracy(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _sums(predictions == labels, weights) / _total(weights)


def _f1(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of class 1; undefined where neither labels nor predictions have it."""
    both = _sums((predictions == 1) & (labels == 1), weights)
    return _ratio(2 * both, _sums(predictions == 1, weights) + _sums((labels == 1)[None], weights))


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
    """Undefined where the predictions, or the labels that were drawn, are constant."""
    x, y = _standardised(predictions), _standardised(labels[None])
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
    "matthews": _matthews,
    "pearson": _pearson,
}
