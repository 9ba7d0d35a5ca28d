"""Slicing where a LayerNorm follows every block (BERT, RoBERTa, ELECTRA).

With n the normalised signal before the norm's gain and bias, the layers carry y = Q^T n, and the hidden state is
gain * (Q y) + bias. What reads it absorbs diag(gain) Q and the bias. The next norm needs its input z centred,
M z with M = I - 11^T/d, so what writes to it absorbs (M Q')^T: the output matrix, and the shortcut, which becomes
(M Q')^T diag(gain) Q and a bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hies.methods.slicegpt.calls import Calls
from hies.methods.slicegpt.family import CannotSliceError, Family, check_children, check_layer, have_parts
from hies.methods.slicegpt.modules import SlicedNorm, SlicedOutput, linear, reading, writing

INPUTS = ("query", "key", "value")
OUTPUTS_AND_MLP = ("attention.output.dense", "intermediate.dense", "output.dense")
BERT_LINEARS = (*(f"attention.self.{name}" for name in INPUTS), *OUTPUTS_AND_MLP)
BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


@dataclass(frozen=True)
class Carried:
    """What the coordinates y that the layers carry stand for: the hidden state matrix @ y + offset.

    Attributes:
        matrix: diag(gain) Q, float64 [d, k].
        offset: the norm's bias, float64 [d].
    """

    matrix: Tensor
    offset: Tensor

    @classmethod
    def after(cls, norm: nn.LayerNorm, basis: Tensor) -> "Carried":
        """Returns what they stand for behind `norm`, in the basis Q [d, k]."""
        return cls(norm.weight.detach().double()[:, None] * basis, norm.bias.detach().double())

    def restoring(self, like: Tensor) -> nn.Linear:
        """Returns the map from y to the hidden state, with the device and precision of `like`."""
        return linear(self.matrix, self.offset, like)


class Bert(Family):
    """Embeddings that end in a norm, then layers of attention, output, intermediate, output."""

    def __init__(self, model: PreTrainedModel) -> None:
        base: Any = model.base_model
        check_children(base, ("embeddings", "encoder", "pooler"))
        check_children(base.encoder, ("layer",))
        self.embeddings, self.layers = base.embeddings, base.encoder.layer
        self.first = getattr(self.embeddings, "LayerNorm", None)
        for layer in self.layers:
            check_layer(layer, BERT_LINEARS, BERT_NORMS)
        for norm in (self.first, *(layer.get_submodule(name) for layer in self.layers for name in BERT_NORMS)):
            if type(norm) is not nn.LayerNorm or norm.weight is None or norm.bias is None:
                message = "a LayerNorm with gain and bias does not end its embeddings and both blocks of a layer"
                raise CannotSliceError(message)
        self.width = self.layers[0].attention.self.query.in_features
        self.attention = [layer.attention.self for layer in self.layers]

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Returns True for a model with the parts of a BERT layer."""
        layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
        return have_parts(layers, ("attention.self", "intermediate"))

    @torch.no_grad()
    def slice(self, calls: Calls) -> None:
        """Slices as the head of this file says; the model pays d * k products a token to enter, as many to leave."""
        norm = self.first
        plain = standard(norm)
        basis = calls.basis([plain(start) for start in calls.starts])
        self.embeddings.LayerNorm = nn.Sequential(plain, linear(basis.T, None, norm.weight))
        states = [self.embeddings.LayerNorm(start) for start in calls.starts]
        carried = Carried.after(norm, basis)
        for layer in self.layers:
            _read(layer.attention.self, INPUTS, carried)
            mixed = calls.through(layer.attention.self, states)
            states, carried = _write(layer.attention, mixed, states, carried, calls)
            _read(layer.intermediate, ("dense",), carried)
            mixed = calls.through(layer.intermediate, states)
            states, carried = _write(layer, mixed, states, carried, calls)
        self.layers[-1].output.restore = carried.restoring(norm.weight)


def standard(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Returns the norm without its gain and bias."""
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


def _read(owner: nn.Module, names: Sequence[str], carried: Carried) -> None:
    """Makes the matrices of these names read the carried coordinates."""
    for name in names:
        setattr(owner, name, reading(getattr(owner, name), carried.matrix, carried.offset))


def _write(
    owner: Any, mixed: list[Tensor], states: list[Tensor], carried: Carried, calls: Calls
) -> tuple[list[Tensor], Carried]:
    """Replaces the output of a layer, or of its attention, choosing a basis for what its norm gives.

    `mixed` is what comes to the output matrix, [batch, tokens, inner width] a batch; `states` are the coordinates
    before the block, [batch, tokens, k] a batch. Returns the coordinates behind the norm, and what they stand for.
    """
    old, plain, restore = owner.output, standard(owner.output.LayerNorm), carried.restoring(owner.output.dense.weight)
    pairs = list(zip(mixed, states, strict=True))
    basis = calls.basis([plain(old.dense(inner) + restore(state)) for inner, state in pairs])
    centred = (basis - basis.mean(dim=0)).T
    shortcut = linear(centred @ carried.matrix, centred @ carried.offset, old.dense.weight)
    norm = SlicedNorm(len(basis), old.LayerNorm.eps)
    owner.output = SlicedOutput(writing(old.dense, centred), shortcut, norm, old.dropout).train(old.training)
    return [owner.output(*pair) for pair in pairs], Carried.after(old.LayerNorm, basis)
