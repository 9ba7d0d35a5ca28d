"""The precision of matrix products."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # configurations read PRECISIONS without torch
    import torch

PRECISIONS = ("float32", "bfloat16")


def computing(precision: str, device: "torch.device") -> "torch.autocast":
    """Returns a context in which matrix products run in `precision`; weights stay as they are."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
