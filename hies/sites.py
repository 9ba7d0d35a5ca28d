"""Numbers per head, kept per site: the name of an attention module -> a tensor whose last dimension is its heads."""

from collections.abc import Mapping

import torch
from torch import Tensor

SiteTensors = dict[str, Tensor]
Removed = dict[str, list[int]]  # site -> sorted indices of the heads that go


def join(tensors: Mapping[str, Tensor]) -> Tensor:
    """All heads of the model in order of depth, [..., heads of the model]."""
    return torch.cat(list(tensors.values()), dim=-1)


def split(joined: Tensor, like: Mapping[str, Tensor]) -> SiteTensors:
    """The inverse of `join`, with the sites and the head counts of `like`."""
    widths = [tensor.shape[-1] for tensor in like.values()]
    return dict(zip(like, joined.split(widths, dim=-1), strict=True))


def rectangle(tensors: Mapping[str, Tensor]) -> Tensor:
    """A view for heat maps, [sites, largest number of heads], NaN where a site has fewer heads."""
    width = max(tensor.shape[-1] for tensor in tensors.values())
    rows = [torch.nn.functional.pad(t.double(), (0, width - len(t)), value=torch.nan) for t in tensors.values()]
    return torch.stack(rows)
