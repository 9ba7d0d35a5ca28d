"""Modules that carry a sliced residual: they keep k of d coordinates. Linears absorb matrices, in float64."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SlicedNorm(nn.Module):
    """A norm without gain on k of d rotated coordinates: x / sqrt(|x|^2 / d + eps), in float32 or better.

    The mean square is over the dense width d; what was cut off counts as zero.

    Attributes:
        dense: d.
        eps: the constant below the root.
    """

    def __init__(self, dense: int, eps: float) -> None:
        super().__init__()
        self.dense, self.eps = dense, eps

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns [..., k] for [..., k]."""
        precise = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return (precise * (precise.square().sum(-1, keepdim=True) / self.dense + self.eps).rsqrt()).to(hidden.dtype)


class SlicedOutput(nn.Module):
    """Stands in place of BERT's attention.output and output: norm(dropout(dense(block)) + shortcut(residual)).

    Attributes:
        restore: after the last layer, from k coordinates to the hidden state of d dimensions; nothing elsewhere.
    """

    def __init__(self, dense: nn.Linear, shortcut: nn.Linear, norm: SlicedNorm, dropout: nn.Module) -> None:
        super().__init__()
        self.dense, self.shortcut, self.norm, self.dropout = dense, shortcut, norm, dropout
        self.restore: nn.Module = nn.Identity()

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Returns [..., k'] for the block's output [..., inner width] and the residual [..., k]."""
        hidden = self.dropout(self.dense(hidden_states)) + self.shortcut(input_tensor)
        return self.restore(self.norm(hidden))


class SlicedDecoderLayer(nn.Module):
    """Stands in place of a pre-norm decoder layer, with a matrix in each of its two shortcuts.

    Attributes:
        enter: before the first layer, from the embeddings of d dimensions to k coordinates; nothing elsewhere.
    """

    def __init__(
        self, norms: Sequence[SlicedNorm], attention: nn.Module, mlp: nn.Module, shortcuts: Sequence[nn.Linear]
    ) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = norms
        self.self_attn, self.mlp = attention, mlp
        self.attention_shortcut, self.mlp_shortcut = shortcuts
        self.enter: nn.Module = nn.Identity()

    def forward(self, hidden_states: Tensor, *inputs: Any, **options: Any) -> Tensor:
        """Returns [..., k''] for [..., k]; further arguments go to the attention module."""
        hidden = self.enter(hidden_states)
        hidden = self.attention_shortcut(hidden) + self.self_attn(self.input_layernorm(hidden), *inputs, **options)[0]
        return self.mlp_shortcut(hidden) + self.mlp(self.post_attention_layernorm(hidden))


@torch.no_grad()
def linear(weight: Tensor, bias: Tensor | None, like: Tensor) -> nn.Linear:
    """Returns a Linear of this weight [outputs, inputs] and bias [outputs], with the device and precision of `like`."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = nn.Parameter(weight.to(like.device, like.dtype).contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias.to(like.device, like.dtype))
    return made


@torch.no_grad()
def reading(old: nn.Linear, matrix: Tensor, offset: Tensor | None = None) -> nn.Linear:
    """Returns what `old` gives for matrix @ y + offset, as a Linear of the coordinates y.

    Args:
        old: reads the hidden state, [d].
        matrix: [d, k].
        offset: [d].
    """
    weight = old.weight.double()
    bias = None if old.bias is None else old.bias.double()
    if offset is not None:
        bias = weight @ offset if bias is None else bias + weight @ offset
    return linear(weight @ matrix, bias, old.weight)


@torch.no_grad()
def writing(old: nn.Linear, matrix: Tensor) -> nn.Linear:
    """Returns matrix [k, d] times what `old` gives, as one Linear."""
    bias = None if old.bias is None else matrix @ old.bias.double()
    return linear(matrix @ old.weight.double(), bias, old.weight)
