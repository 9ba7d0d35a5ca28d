"""LLM-Pruner's equations as pure functions of tensors (Ma et al. 2023, arXiv 2305.11627, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def taylor_salience(weights: Tensor, gradient: Tensor, squares: Tensor, kind: str) -> Tensor:
    """Taylor salience: the change of the loss if a weight is removed.

    vectorised: W g, signed, so that the terms of a group may cancel before the absolute value of their sum is taken;
    first: |W g|; second: |W^2 F / 2|; mixed: |W g - W^2 F / 2|. Up to terms of third order the loss changes by
    -(W g - W^2 H / 2); F stands in for the diagonal H of the Hessian (Fisher's approximation).

    Args:
        weights: W, any shape.
        gradient: g, of the mean loss over the examples, same shape.
        squares: F, the mean over the examples of the squared gradient of each one's loss, same shape.
        kind: `vectorised`, `first`, `second` or `mixed`.

    Returns:
        One number for every weight; the salience of several is their sum, same shape.
    """
    first, second = weights * gradient, weights.square() * squares / 2
    if kind == "mixed":
        return (first - second).abs()
    return {"vectorised": first, "first": first.abs(), "second": second.abs()}[kind]


def group_salience(saliences: Sequence[Tensor], reduction: str) -> Tensor:
    """Salience of a group, out of those of its matrices, non-negative, [groups].

    sum, mean: the absolute value of the sum (mean) of signed saliences; max, product: of the absolute values.

    Args:
        saliences: of each matrix, [groups].
        reduction: `sum`, `mean`, `max` or `product`.
    """
    joint = torch.stack(list(saliences))  # [matrices, groups]
    if reduction in ("sum", "mean"):
        return (joint.sum(dim=0) if reduction == "sum" else joint.mean(dim=0)).abs()
    return joint.abs().amax(dim=0) if reduction == "max" else joint.abs().prod(dim=0)
