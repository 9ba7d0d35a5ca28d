"""What stands in a layer that has lost all its heads: its forward runs as before, and no weight is left of it."""

from typing import Any

import torch
from torch import Tensor, nn

from hies.heads.matrices import matrix
from hies.heads.projections import Projections


def remove_weights(module: Any, found: Projections) -> None:
    """Replaces the projections of a site by what has no weights: forwards still see the shapes of one head."""
    widths: dict[tuple[nn.Module, str], int] = {}
    for part in (found.query, found.key, found.value, *found.gates):
        place = (part.owner, part.name)
        widths[place] = widths.get(place, 0) + part.rows.shape[1]
    for (owner, name), width in widths.items():
        _replace(owner, name, Constant(width, None))
    output: Any = found.output.module
    _replace(found.output.owner, found.output.name, Constant(len(matrix(output)), output.bias))
    for name in (*found.joint_norms, *found.head_norms):
        setattr(module, name, nn.Identity())
    for parameter in found.parameters:  # one head's zeros, which nothing saves: forwards add them to what is not used
        zeros = torch.zeros_like(parameter.tensor.narrow(parameter.dim, 0, parameter.share), requires_grad=False)
        delattr(parameter.owner, parameter.name)
        parameter.owner.register_buffer(parameter.name, zeros, persistent=False)


def _replace(owner: nn.Module, name: str, constant: "Constant") -> None:
    """Puts a constant where forwards look for a projection, but not among the modules that adapters are added to."""
    delattr(owner, name)
    vars(owner)[name] = constant
    if len(constant.bias):
        owner.add_module(f"{name}_constant", constant)


NOTHING: Any = torch.empty(0)
NOTHING._is_hf_initialized = True  # transformers else fills it with random numbers, as it would a weight


class Constant(nn.Module):
    """Stands in place of a projection without heads: [..., inputs] -> what it gives for zeros, [..., width].

    Attributes:
        width: of its output.
        weight: without elements, for transformers, which initialises weights before it loads a checkpoint.
        bias: [width] of an output projection; without elements of another one, and where there was none.
    """

    def __init__(self, width: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.width, self.weight, self.bias = width, NOTHING, NOTHING if bias is None else bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the bias, or zeros, [..., width] for [..., inputs]."""
        zeros = hidden.new_zeros(*hidden.shape[:-1], self.width)
        return zeros + self.bias.to(hidden.dtype) if len(self.bias) else zeros
