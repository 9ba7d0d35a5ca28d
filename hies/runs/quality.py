"""Quality and stability in percent, as the paper prints them, the area under a curve of quality, and the loss."""

from collections.abc import Callable
from typing import Any

import numpy as np

# Raw metric, a number or an array of them -> quality in percent: 0 of a share and -1 of a correlation are 0 %.
PERCENT: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("accuracy", "f1", "f1_macro", "f1_weighted"), lambda share: 100 * share),
    **dict.fromkeys(("vqa", "judged", "exact_match", "next_token"), lambda share: 100 * share),
    **dict.fromkeys(("matthews", "pearson"), lambda correlation: 50 * (correlation + 1)),
}


SQUARED = ("pearson",)  # metrics of scores, whose loss is a squared error; that of all others is in nats


def mean_loss(losses: np.ndarray) -> float | None:
    """Returns the mean of losses, [examples]; None where one of them is not finite."""
    mean = float(np.mean(losses, dtype=np.float64))
    return mean if np.isfinite(mean) else None


def same_answer(predictions: np.ndarray, unpruned: np.ndarray) -> np.ndarray:
    """Returns where predictions are those of the unpruned model, boolean; both [..., examples].

    The paper never writes its definition of stability out; this is our reading: the same class. Regression scores
    (fractions, STS-B) agree where they round to the same integer of the scale from 0 to 5.
    """
    if np.issubdtype(predictions.dtype, np.floating):
        predictions, unpruned = np.rint(predictions.clip(0, 5)), np.rint(unpruned.clip(0, 5))
    return predictions == unpruned


def stability(predictions: np.ndarray, unpruned: np.ndarray) -> float:
    """Returns the agreement of predictions with the unpruned model's, both [examples], in percent."""
    return 100 * float(np.mean(same_answer(predictions, unpruned)))


def weighted_area(quality: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Returns wAUC, the weighted area under the quality curve (appendix D.8), in percent, [curves].

    wAUC = sum_r w_r q(r) / sum_r w_r with w_r = r: heavier pruning counts more. That the weight is the ratio itself is
    our reading; the paper names the measure without its weights.

    Args:
        quality: q(r) in percent, NaN where undefined, which counts as 0, [curves, ratios].
        ratios: the pruned ratios, each in (0, 1], [ratios].
    """
    return (np.nan_to_num(quality, nan=0.0) * ratios).sum(axis=-1) / ratios.sum()
