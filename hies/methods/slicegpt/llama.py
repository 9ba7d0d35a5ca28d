"""Slicing where an RMSNorm precedes every block (LLaMA, Mistral, Qwen2, Qwen3).

The layers carry y = Q^T x of the residual x. What reads it absorbs the norm's gain and the basis, diag(gain) Q; what
writes to it absorbs Q'^T, with Q' the basis of the place behind; the shortcut becomes Q'^T Q.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hies.methods.slicegpt.calls import Calls
from hies.methods.slicegpt.family import CannotSliceError, Family, check_children, check_layer, have_parts
from hies.methods.slicegpt.modules import SlicedDecoderLayer, SlicedNorm, linear, reading, writing

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")  # the last one writes to the residual
MLP = ("gate_proj", "up_proj", "down_proj")
LLAMA_LINEARS = (*(f"self_attn.{name}" for name in ATTENTION), *(f"mlp.{name}" for name in MLP))
LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
EPSILONS = ("variance_epsilon", "eps")
BEHIND = ("self_attn.q_norm", "self_attn.k_norm")  # norms of queries and keys, which do not see the residual


@dataclass(frozen=True)
class Residual:
    """The residual at one place.

    Attributes:
        basis: Q, float64 [d, k].
        states: the coordinates y, [batch, tokens, k] a batch.
    """

    basis: Tensor
    states: list[Tensor]

    @classmethod
    def of(cls, signals: Sequence[Tensor], calls: Calls) -> "Residual":
        """Returns it in a basis that is chosen for signals of full width, [batch, tokens, d] a batch."""
        basis = calls.basis(signals)
        return cls(basis, [signal @ basis.to(signal.dtype) for signal in signals])

    @property
    def signals(self) -> list[Tensor]:
        """Q y, [batch, tokens, d] a batch."""
        return [state @ self.basis.T.to(state.dtype) for state in self.states]


class Llama(Family):
    """Embeddings, layers of attention and MLP with a norm before each, and a last norm."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.base: Any = model.base_model
        check_children(self.base, ("embed_tokens", "layers", "norm"))
        self.layers = self.base.layers
        for layer in self.layers:
            check_layer(layer, LLAMA_LINEARS, (*LLAMA_NORMS, *BEHIND))
            for name in LLAMA_NORMS:
                check_norm(getattr(layer, name, None))
        if not hasattr(self.base, "norm"):
            raise CannotSliceError("it has no norm behind its last layer")
        self.first = self.layers[0].input_layernorm
        self.width = self.layers[0].self_attn.q_proj.in_features
        self.attention = [layer.self_attn for layer in self.layers]

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Returns True for a model with the parts of a LLaMA layer."""
        return have_parts(getattr(model.base_model, "layers", None), ("self_attn", "mlp", LLAMA_NORMS[0]))

    @torch.no_grad()
    def slice(self, calls: Calls) -> None:
        """Slices as the head of this file says; the model pays d * k products a token to enter, as many to leave.

        Each basis is that of the residual as it comes to the norm, where the paper's equation has the norm's output.
        """
        like = self.first.weight
        residual = start = Residual.of(calls.starts, calls)
        for i, layer in enumerate(self.layers):
            blocks = (layer.self_attn, ATTENTION), (layer.mlp, MLP)
            norms, shortcuts = [], []
            for (block, names), norm in zip(blocks, (getattr(layer, name) for name in LLAMA_NORMS), strict=True):
                norms.append(SlicedNorm(self.width, epsilon(norm)))
                behind = _cut(block, names, norm.weight, norms[-1], residual, calls)
                shortcuts.append(linear(behind.basis.T @ residual.basis, None, like))
                residual = behind
            self.layers[i] = SlicedDecoderLayer(norms, layer.self_attn, layer.mlp, shortcuts).train(layer.training)
        self.layers[0].enter = linear(start.basis.T, None, like)
        self.base.norm = nn.Sequential(linear(residual.basis, None, like), self.base.norm)


def _cut(
    block: nn.Module, names: Sequence[str], gain: Tensor, norm: SlicedNorm, residual: Residual, calls: Calls
) -> Residual:
    """Makes the matrices `names` of a block read `residual` and, the last one, write to the residual returned."""
    for name in names[:-1]:
        setattr(block, name, reading(getattr(block, name), gain.double()[:, None] * residual.basis))
    added = calls.through(block, [norm(state) for state in residual.states])
    behind = Residual.of([before + change for before, change in zip(residual.signals, added, strict=True)], calls)
    setattr(block, names[-1], writing(getattr(block, names[-1]), behind.basis.T))
    return behind


def check_norm(norm: Any) -> None:
    """Refuses a norm that gives anything but gain * x / sqrt(mean x^2 + eps), such as Gemma's with its 1 + gain."""
    gain = getattr(norm, "weight", None)
    if not isinstance(gain, Tensor) or not any(hasattr(norm, name) for name in EPSILONS):
        raise CannotSliceError("an RMSNorm with a gain does not stand before both blocks of a layer")
    probe = torch.linspace(-1, 2, len(gain), dtype=gain.dtype, device=gain.device)
    with torch.no_grad():
        expected = gain.float() * probe.float() * (probe.float().square().mean() + epsilon(norm)).rsqrt()
        error = (norm(probe[None])[0].float() - expected).abs().max()
    rounding = 16 * max(torch.finfo(gain.dtype).eps, torch.finfo(torch.float32).eps)
    if not error <= rounding * expected.abs().max().clamp(min=1):
        raise CannotSliceError(f"its norm {type(norm).__name__} does not compute gain * x / sqrt(mean x^2 + eps)")


def epsilon(norm: Any) -> float:
    """Returns the constant below the root, by what the norm calls it."""
    return next(getattr(norm, name) for name in EPSILONS if hasattr(norm, name))
