"""The precision of matrix products."""

import torch

PRECISIONS = ("float32", "bfloat16")


def computing(precision: str, device: torch.device) -> torch.autocast:
    """A context in which matrix products run in `precision`; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
