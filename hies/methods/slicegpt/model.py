"""A sliced copy of a model, and what keeps a model from being sliced."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hies.batching import Batch
from hies.errors import HiesError, UnsupportedModelError
from hies.heads.attention import check_not_handled
from hies.heads.copies import independent_copy
from hies.heads.pruned import PrunedHeads
from hies.heads.weights import check_weights_are_here
from hies.methods.slicegpt.bases import principal, reflections
from hies.methods.slicegpt.bert import Bert
from hies.methods.slicegpt.calls import real_tokens, record, run
from hies.methods.slicegpt.family import CannotSliceError, Family
from hies.methods.slicegpt.llama import Llama

FAMILIES: tuple[type[Family], ...] = (Bert, Llama)
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1  # of a rotated model's answers, relative; another model's are off by about 1
CHECKED = 2  # examples that a rotated model is checked on


def family_of(model: PreTrainedModel) -> Family:
    """Returns the parts of a model, or raises UnsupportedModelError with the reason why it cannot be sliced."""
    check_weights_are_here(model, "Slicing")
    try:
        return _family_of(model)
    except CannotSliceError as error:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be sliced: {error}.") from None


def _family_of(model: PreTrainedModel) -> Family:
    if getattr(model.config, "is_encoder_decoder", False):
        raise CannotSliceError("its decoder reads two residuals, and only models with one are known")
    if model.main_input_name != "input_ids":
        raise CannotSliceError(f"it reads {model.main_input_name}, and only models of text are known")
    if any(map(PrunedHeads.of, model.modules())):
        raise CannotSliceError("heads have been cut out of it; slice the dense model")
    kind = next((kind for kind in FAMILIES if kind.fits(model)), None)
    if kind is None:
        raise CannotSliceError("its layers have neither the parts of BERT's nor those of LLaMA's")
    family = kind(model)
    if len({*family.attention}) < len(family.attention):
        raise CannotSliceError("its layers are not all different ones, and each needs bases of its own")
    return family


def sliced(model: PreTrainedModel, batches: Sequence[Batch], width: int, damping: float) -> PreTrainedModel:
    """Returns a copy of `model` whose layers carry `width` dimensions of the residual; `model` stays as it is.

    The bases are chosen one after another, each from the signal that comes out of the layers already cut; it takes
    about two passes over the batches. Embeddings, heads and the last norm of a pre-norm model stay whole; the hidden
    states between the layers are in bases of their own, so `output_hidden_states` gives nothing to compare.

    Args:
        model: see `family_of`.
        batches: calibration examples as the model takes them; labels are not looked at.
        width: k, from 1 to the model's width d; d rotates and cuts nothing.
        damping: see `hies.methods.slicegpt.bases.principal_basis`.

    Raises:
        UnsupportedModelError: the model cannot be sliced, or it computes something that slicing does not know.
        HiesError: a width outside its range, no example, or an open `hies.masked` block.
    """
    check_not_handled(model, "Slicing")
    dense = family_of(model).width
    if not 1 <= width <= dense:
        raise HiesError(f"width is {width}; it must be from 1 to the {dense} dimensions of the model's residual.")
    if not batches:
        raise HiesError("There is no calibration example, and slicing looks at the hidden states of some.")
    has_rows = {name: isinstance(values, Tensor) and values.dim() for name, values in batches[0].items()}  # else a flag
    few = {name: values[:CHECKED] if has_rows[name] else values for name, values in batches[0].items()}
    _check_rotation(model, few)
    small = independent_copy(model, "Slicing").eval()
    family = family_of(small)
    family.slice(record(small, family.first, family.attention, batches, principal(width, damping)))
    return small


@torch.no_grad()
def _check_rotation(model: PreTrainedModel, batch: Batch) -> None:
    """Rotates a copy by other bases at every place without cutting: if answers change, slicing misses something."""
    whole = independent_copy(model, "Slicing").eval()
    before = _answers(whole, batch)
    if not before.isfinite().all():
        raise HiesError(f"{type(model).__name__} gives answers that are not finite for a calibration example.")
    family = family_of(whole)
    family.slice(record(whole, family.first, family.attention, [batch], reflections()))
    error = (_answers(whole, batch) - before).norm() / before.norm().clamp(min=torch.finfo(before.dtype).tiny)
    if not error <= (TOLERANCE if model.dtype.itemsize >= 4 else HALF_TOLERANCE):
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be sliced: it computes something that slicing does not know, since a mere "
            f"rotation of its residual changes its answers by {float(error):.1%}."
        )


def _answers(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Returns the model's outputs, at real tokens where it has one for each token; float32 or better."""
    answers: Tensor = run(model, batch)[0]
    answers = answers[real_tokens(batch, answers)] if answers.dim() == 3 else answers
    return answers.to(torch.promote_types(answers.dtype, torch.float32))
