"""Gradients of a loss, also of a float16 model."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from hies.errors import HiesError, UnsupportedModelError, first_line

HALF_SCALE = 1024  # of the loss of a float16 model, whose small gradients would be rounded to zero
REMEDY = "score the model in bfloat16 or float32"
NO_GRADIENT = "an autograd kernel was not registered"  # how torch warns of an operator that passes no gradient on
WITHOUT = "leave gradients out, as in need=('ae',)"


def gradients(loss: Tensor, tensors: Sequence[Tensor], is_half: bool) -> list[Tensor]:
    """Returns dloss/dx for every tensor x, in its shape, at least float32; zeros where the loss does not reach.

    Args:
        loss: one number that has a gradient.
        tensors: what to differentiate by.
        is_half: something on the way is float16. The loss is then scaled, unless that makes a gradient overflow.

    Raises:
        UnsupportedModelError: see `differentiated`.
    """
    scale = HALF_SCALE if is_half else 1
    raw = differentiated(scale * loss, tensors, keep=is_half)
    if is_half and not all(gradient.isfinite().all() for gradient in raw):
        scale, raw = 1, differentiated(loss, tensors)
    return [gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / scale for gradient in raw]


def differentiated(loss: Tensor, tensors: Sequence[Tensor], keep: bool = False) -> tuple[Tensor, ...]:
    """Returns dloss/dx for every tensor x, in its shape and type; zeros where the loss does not reach.

    Args:
        loss: one number that has a gradient.
        tensors: what to differentiate by.
        keep: keep the graph for another time.

    Raises:
        UnsupportedModelError: an operator on the way passes no gradient on, so that a part of it would be missing, or
            forbids it.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            found = torch.autograd.grad(loss, tensors, materialize_grads=True, retain_graph=keep)
        except RuntimeError as error:  # of an operator without a formula, or torch.utils.checkpoint(use_reentrant=True)
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = f"The loss cannot be differentiated ({first_line(error)})"
            raise UnsupportedModelError(f"{reason}; {WITHOUT}.") from error
    for one in seen:
        if NO_GRADIENT in str(one.message):
            operator = str(one.message).partition(": ")[0]
            raise UnsupportedModelError(
                f"The operator {operator} passes no gradient on, so that importance would lack all that runs through "
                f"it; score before the model is quantised, or {WITHOUT}."
            )
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return found


@contextlib.contextmanager
def requiring_gradients(model: nn.Module, weights: Sequence[Tensor] = ()) -> Iterator[None]:
    """Lets only `weights` of the parameters require gradients inside the block, then gives all flags back.

    Raises:
        HiesError: the model was made under `torch.inference_mode`.
    """
    if not torch.is_inference_mode_enabled() and any(parameter.is_inference() for parameter in model.parameters()):
        raise HiesError(
            f"{type(model).__name__} was made under torch.inference_mode(), which forbids its weights gradients; make "
            "it under torch.no_grad(), or give copy.deepcopy(model)."
        )
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)


def not_finite(example: int, site: str, is_half: bool) -> HiesError:
    """Returns the refusal of an example, by its number in the calibration set, whose gradients are no numbers."""
    remedy = f"; {REMEDY}" if is_half else ""
    return HiesError(f"Example {example} has a gradient that is not finite at site {site!r}{remedy}.")


def all_zero(example: int) -> HiesError:
    """Returns the refusal of an example whose gradients float16 has rounded to zero: its scores would say nothing."""
    return HiesError(f"All gradients of example {example} are zero in float16; {REMEDY}.")
