"""Metrics of answers; their quality in percent, as the paper prints it, is that of `hies.runs.quality`."""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hies.runs.quality import PERCENT, stability
from hies.tasks.own.cells import bits_of
from hies.tasks.vqa.accuracy import vqa_accuracy

__all__ = ["METRICS", "quality", "stability"]


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns Pearson's correlation; undefined for a constant prediction."""
    predictions = predictions.astype(np.float64)
    constant = len(predictions) < 2 or np.ptp(predictions) < 1e-6 * max(1.0, np.abs(predictions).max())
    return float("nan") if constant else pearsonr(labels, predictions).statistic


def _mean_f1(labels: np.ndarray, predictions: np.ndarray, average: str) -> float:
    """Returns the mean F1 over the classes, or labels of which an example may have several, that occur on either side.

    Args:
        labels: class indices, or texts with a 0 or 1 for each label such as 0110, [examples].
        predictions: of the same kind.
        average: `macro`, or `weighted` by how often each is right.
    """
    if labels.dtype.kind == "U":
        labels, predictions = bits_of(labels), bits_of(predictions)
    return f1_score(labels, predictions, average=average, zero_division=np.nan)


def _next_token(texts: np.ndarray, tokens: np.ndarray) -> float:
    """Returns how many texts go on with the token that was predicted for them, both as texts, [examples]."""
    return float(np.mean(np.char.startswith(texts, tokens) & (tokens != "")))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": partial(f1_score, zero_division=0.0),
    "f1_macro": partial(_mean_f1, average="macro"),
    "f1_weighted": partial(_mean_f1, average="weighted"),
    "matthews": matthews_corrcoef,
    "pearson": _pearson,
    "vqa": vqa_accuracy,
    "judged": lambda labels, grades: float(np.mean(grades)),  # NaN without a judge
    "next_token": _next_token,
    "exact_match": lambda labels, predictions: float(np.mean(labels == predictions)),
}  # name -> (labels, predictions), both [examples] -> raw value, NaN where undefined


def quality(metric: str, labels: np.ndarray, predictions: np.ndarray) -> tuple[float | None, float | None]:
    """Returns a raw metric and its quality in percent; None where undefined (STS-B, all predictions equal).

    Args:
        metric: a key of `METRICS`.
        labels: the right answers, [examples].
        predictions: the answers, [examples].
    """
    value = float(METRICS[metric](labels, predictions))
    return (None, None) if np.isnan(value) else (value, PERCENT[metric](value))
