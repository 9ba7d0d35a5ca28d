"""Quality and stability of weighted examples, for many weightings and many predictions at once.

A bootstrap resample of the examples is a vector of counts, so that every metric follows from sums: from a product of
the matrix of counts with a matrix of indicators or moments. Shapes: draws D, models M, examples N.
"""

from collections.abc import Callable

import numpy as np

Weighted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def quality(metric: str, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Quality in percent, [D, M]; NaN where the metric is undefined.

    labels: [N]. predictions: [M, N], classes or scores. weights: [D, N], how often each example counts.
    """
    measure, to_quality = METRICS[metric]
    return to_quality(measure(labels, predictions, weights))


def stability(predictions: np.ndarray, unpruned: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Agreement of predictions with those of the unpruned model, both [M, N], in percent: [D, M].

    Scores of a regression task agree where they round to the same integer of the scale from 0 to 5.
    """
    if np.issubdtype(predictions.dtype, np.floating):
        predictions, unpruned = np.rint(predictions.clip(0, 5)), np.rint(unpruned.clip(0, 5))
    return 100 * _sums(predictions == unpruned, weights) / _total(weights)


def _accuracy(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _sums(predictions == labels, weights) / _total(weights)


def _f1(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of class 1; undefined where neither labels nor predictions have it."""
    found = _sums((predictions == 1) & (labels == 1), weights)
    return _ratio(2 * found, _sums(predictions == 1, weights) + _sums((labels == 1)[None], weights))


def _matthews(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The correlation of classes; 0 where either side has one class only, as scikit-learn and the paper have it."""
    total = _total(weights)
    covariance = total * _sums(predictions == labels, weights)
    spread_labels, spread_predictions = total**2, total**2
    for one in np.union1d(labels, predictions):
        told, true = _sums(predictions == one, weights), _sums((labels == one)[None], weights)
        covariance = covariance - told * true
        spread_predictions, spread_labels = spread_predictions - told**2, spread_labels - true**2
    return np.nan_to_num(_ratio(covariance, np.sqrt(spread_predictions * spread_labels)), nan=0.0)


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
    spread = values.std(axis=1, keepdims=True)
    constant = np.ptp(values, axis=1, keepdims=True) < 1e-6 * np.maximum(1, np.abs(values).max(axis=1, keepdims=True))
    return np.where(constant, np.nan, (values - values.mean(axis=1, keepdims=True)) / np.where(constant, 1, spread))


def _sums(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums over the examples, [D, M]; counts are exact in single precision, which is twice as fast."""
    exact = np.float32 if values.dtype == bool else np.float64
    return (weights.astype(exact) @ values.T.astype(exact)).astype(np.float64)


def _total(weights: np.ndarray) -> np.ndarray:
    return weights.sum(axis=1, keepdims=True, dtype=np.float64)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where it is 0 / 0."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)


def _percent(values: np.ndarray) -> np.ndarray:
    return 100 * values


def _mapped(values: np.ndarray) -> np.ndarray:
    """A correlation on the paper's scale: -1 to 0 %, 0 to 50 %, 1 to 100 %."""
    return 50 * (values + 1)


METRICS: dict[str, tuple[Weighted, Callable[[np.ndarray], np.ndarray]]] = {
    "accuracy": (_accuracy, _percent),
    "f1": (_f1, _percent),
    "matthews": (_matthews, _mapped),
    "pearson": (_pearson, _mapped),
}
