"""How the basis of a place in the residual stream is chosen: its principal axes, or, to check a model, any rotation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hies import equations

Choose = Callable[[Sequence[Tensor]], Tensor]  # real tokens of a signal, [tokens, d] a batch -> orthonormal Q [d, k]


def principal(width: int, damping: float) -> Choose:
    """The `width` axes of largest second moment, float64."""

    def choose(signals: Sequence[Tensor]) -> Tensor:
        return equations.principal_basis(equations.second_moment(signals), damping)[1][:, :width]

    return choose


def reflections(seed: int = 0) -> Choose:
    """A different reflection at every place, I - 2 v v^T with a random unit vector v; nothing is cut, k = d."""
    generator = torch.Generator().manual_seed(seed)

    def choose(signals: Sequence[Tensor]) -> Tensor:
        normal = torch.randn(signals[0].shape[1], generator=generator, dtype=torch.float64)
        normal = (normal / normal.norm()).to(signals[0].device)
        return torch.eye(len(normal), dtype=normal.dtype, device=normal.device) - 2 * torch.outer(normal, normal)

    return choose
