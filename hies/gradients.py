"""Gradients of a loss, also of a float16 model."""

from collections.abc import Sequence

import torch
from torch import Tensor

HALF_SCALE = 1024  # of the loss of a float16 model, whose small gradients would be rounded to zero


def gradients(loss: Tensor, wanted: Sequence[Tensor], is_half: bool) -> list[Tensor]:
    """dloss/dx for every tensor x that is wanted, in its shape, at least float32; zeros where the loss does not reach.

    is_half: something on the way is float16. The loss is then scaled, unless that makes a gradient overflow.
    """
    scale = HALF_SCALE if is_half else 1
    found = torch.autograd.grad(scale * loss, wanted, materialize_grads=True, retain_graph=is_half)
    if is_half and not all(gradient.isfinite().all() for gradient in found):
        scale, found = 1, torch.autograd.grad(loss, wanted, materialize_grads=True)
    return [gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / scale for gradient in found]
