"""Quality and stability in percent, as the paper prints them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score

Measure = Callable[[np.ndarray, np.ndarray], float]  # (labels, predictions) -> raw value, NaN where undefined


@dataclass(frozen=True)
class Metric:
    """A raw metric and its mapping to the paper's quality in percent."""

    measure: Measure
    to_quality: Callable[[float], float]


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy_score, lambda value: 100 * value),
}


def quality(metric: str, labels: np.ndarray, predictions: np.ndarray) -> tuple[float | None, float | None]:
    """The raw metric and the quality in percent; both None where the metric is undefined (constant predictions)."""
    value = float(METRICS[metric].measure(labels, predictions))
    return (None, None) if np.isnan(value) else (value, METRICS[metric].to_quality(value))


def stability(predictions: np.ndarray, unpruned: np.ndarray) -> float:
    """Agreement with the unpruned model in percent: the share of examples of the same class.

    The paper never writes its definition out; this is our reading. Regression scores (fractions) agree where they round
    to the same integer.
    """
    return 100 * float(np.mean(np.rint(predictions) == np.rint(unpruned)))
