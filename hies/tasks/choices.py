"""What the log-likelihoods of a document's options come to: the option chosen, and the loss of the right one."""

from collections.abc import Sequence

import numpy as np

from hies.tasks.base import Answers


def chosen_options(scores: Sequence[np.ndarray], sizes: Sequence[Sequence[int]] | None = None) -> Answers:
    """Returns the most likely option of each document, int64 [documents].

    Args:
        scores: the log-likelihoods of each document's options, [documents] of [options].
        sizes: their characters; with these there is also `norm`, by the log-likelihood divided by them.
    """
    by_rule = {"predictions": scores}
    if sizes is not None:
        by_rule["norm"] = [each / np.array(size, float) for each, size in zip(scores, sizes, strict=True)]
    return {rule: np.array([each.argmax() for each in found], dtype=np.int64) for rule, found in by_rule.items()}


def option_losses(
    scores: Sequence[np.ndarray], tokens: Sequence[np.ndarray], right: Sequence[int] | np.ndarray
) -> Answers:
    """Returns two losses of each document in nats, float32 [documents].

    `losses`: -log(p_y / sum_o p_o), the cross-entropy of the right option y over the options o.
    `token_losses`: -log(p_y) / t_y, its mean negative log-likelihood a token.

    Args:
        scores: log(p_o), [documents] of [options].
        tokens: t_o, the tokens of each option, in the same shape.
        right: the right option of each document, [documents].
    """
    found: dict[str, list[float]] = {"losses": [], "token_losses": []}
    with np.errstate(invalid="ignore"):  # a broken model may give every option a probability of 0
        for each, counts, option in zip(scores, tokens, right, strict=True):
            found["losses"].append(np.logaddexp.reduce(each) - each[option])
            found["token_losses"].append(-each[option] / counts[option])
    return {name: np.array(values, dtype=np.float32) for name, values in found.items()}
