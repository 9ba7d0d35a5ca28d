"""The basis of a place in the residual stream: its principal axes or, to check a model, any rotation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hies.errors import HiesError

Choose = Callable[[Sequence[Tensor]], Tensor]  # real tokens of a signal, [tokens, d] a batch -> orthonormal Q [d, k]


def second_moment(signals: Sequence[Tensor]) -> Tensor:
    """Uncentred second moment of a signal over tokens, C = 1/N sum_t x_t x_t^T (SliceGPT, Ashkboos et al. 2024).

    The paper sums where this takes the mean; the eigenvectors are the same.

    Args:
        signals: the real tokens of each batch, [tokens, width]; N is the number of all of them.

    Returns:
        C, symmetric, float64, [width, width].
    """
    count = sum(len(signal) for signal in signals)
    if not count:
        raise HiesError("The calibration examples have no tokens, so there is no second moment; give at least one.")
    total = torch.zeros(2 * signals[0].shape[1:], dtype=torch.float64, device=signals[0].device)
    for signal in signals:
        total += signal.double().T @ signal.double()
    if not total.isfinite().all():
        raise HiesError("A hidden state of a calibration example is not finite, so its principal axes are not defined.")
    return total / count


def principal_basis(moment: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Principal axes of a signal, C + damping * mean(diag C) * I = Q diag(l) Q^T (SliceGPT, Ashkboos et al. 2024).

    Damping shifts all eigenvalues alike and leaves the axes; it keeps the decomposition well-behaved where a signal
    does not fill its space. The entry of largest absolute value of each axis is made positive, since the equation
    leaves the sign open. Axes of equal eigenvalue are arbitrary within the space that they span.

    Args:
        moment: C, symmetric, [width, width].
        damping: share of the mean diagonal that is added, 0 or more.

    Returns:
        The eigenvalues l, largest first, [width], and Q, whose columns are the axes, [width, width].
    """
    added = damping * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    values, axes = torch.linalg.eigh(moment + added)
    values, axes = values.flip(0), axes.flip(1)
    peaks = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return values, axes * torch.where(peaks < 0, -1.0, 1.0)


def principal(width: int, damping: float) -> Choose:
    """Returns a choice of the `width` axes of largest second moment, float64."""

    def choose(signals: Sequence[Tensor]) -> Tensor:
        return principal_basis(second_moment(signals), damping)[1][:, :width]

    return choose


def reflections(seed: int = 0) -> Choose:
    """Returns a choice of another reflection at every place, I - 2 v v^T, v a random unit vector; nothing is cut."""
    generator = torch.Generator().manual_seed(seed)

    def choose(signals: Sequence[Tensor]) -> Tensor:
        normal = torch.randn(signals[0].shape[1], generator=generator, dtype=torch.float64)
        normal = (normal / normal.norm()).to(signals[0].device)
        return torch.eye(len(normal), dtype=normal.dtype, device=normal.device) - 2 * torch.outer(normal, normal)

    return choose
