"""Numbers per head, kept per site: the name of an attention module -> a tensor whose last dimension is its heads."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from hies.errors import HiesError

SiteTensors = dict[str, Tensor]
Removed = dict[str, list[int]]  # site -> sorted indices of the heads that go


def listed(removed: Mapping[str, Any]) -> Removed:
    """Heads that go, as sorted lists; sites that lose none are left out.

    removed: site -> a list, set, array or tensor of indices.

    Raises:
        HiesError: something that is no index, such as a mask of booleans.
    """
    found = {site: _indices(site, heads) for site, heads in removed.items()}
    return {site: heads for site, heads in found.items() if heads}


def _indices(site: str, heads: Any) -> list[int]:
    values = heads.tolist() if hasattr(heads, "tolist") else heads
    iterable = isinstance(values, Iterable) and not isinstance(values, str)
    values = list(values) if iterable else [values]
    if not iterable or any(isinstance(one, bool) or not isinstance(one, Integral) for one in values):
        raise HiesError(f"removed[{site!r}] is {heads!r}; give the indices of the heads that go, as in [0, 3].")
    return sorted({int(one) for one in values})


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
