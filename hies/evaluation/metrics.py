"""Quality and stability in percent, as the paper prints them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hies.tasks.vqa import accuracy as vqa

Measure = Callable[[np.ndarray, np.ndarray], float]  # (labels, predictions) -> raw value, NaN where undefined


@dataclass(frozen=True)
class Metric:
    """A raw metric and its mapping to the paper's quality in percent."""

    measure: Measure
    to_quality: Callable[[float], float]


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson correlation; undefined for a constant prediction."""
    predictions = predictions.astype(np.float64)
    constant = len(predictions) < 2 or np.ptp(predictions) < 1e-6 * max(1.0, np.abs(predictions).max())
    return float("nan") if constant else pearsonr(labels, predictions).statistic


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy_score, lambda value: 100 * value),
    "f1": Metric(partial(f1_score, zero_division=0.0), lambda value: 100 * value),
    "matthews": Metric(matthews_corrcoef, lambda value: 50 * (value + 1)),
    "pearson": Metric(_pearson, lambda value: 50 * (value + 1)),
    "vqa": Metric(vqa.accuracy, lambda value: 100 * value),
    "judged": Metric(lambda labels, grades: float(np.mean(grades)), lambda value: 100 * value),  # NaN without a judge
    "exact_match": Metric(lambda labels, predictions: np.mean(labels == predictions), lambda value: 100 * value),
}


def quality(metric: str, labels: np.ndarray, predictions: np.ndarray) -> tuple[float | None, float | None]:
    """The raw metric and the quality in percent of predictions [examples]; None where undefined (STS-B, all equal)."""
    value = float(METRICS[metric].measure(labels, predictions))
    return (None, None) if np.isnan(value) else (value, METRICS[metric].to_quality(value))


def stability(predictions: np.ndarray, unpruned: np.ndarray) -> float:
    """Agreement of predictions with the unpruned model's, both [examples], in percent: the share of the same class.

    The paper never writes its definition out; this is our reading. Regression scores (fractions, STS-B) agree where
    they round to the same integer of the scale from 0 to 5.
    """
    if np.issubdtype(predictions.dtype, np.floating):
        predictions, unpruned = np.rint(predictions.clip(0, 5)), np.rint(unpruned.clip(0, 5))
    return 100 * float(np.mean(predictions == unpruned))
