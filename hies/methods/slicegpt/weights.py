"""Matrices absorbed into the weights of the Linears that read or write the residual, computed in float64."""

import torch
from torch import Tensor, nn


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
