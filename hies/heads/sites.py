"""Numbers per head, kept per site: the name of an attention module -> a tensor whose last dimension is its heads."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from hies.errors import ParameterError

if TYPE_CHECKING:  # methods declare their knobs without torch
    from torch import Tensor

SiteTensors = dict[str, "Tensor"]
Removed = dict[str, list[int]]  # site -> sorted indices of the heads that are removed
SiteHead = tuple[str, int]  # site, index


@dataclass(frozen=True)
class Site:
    """An attention module and its heads, as a forward pass found them.

    Attributes:
        name: of the module in its model.
        heads: its query heads.
        key_heads: its key/value heads.
        width: of a head's output.
        rows: of its first call in the pass: the batch size times, say, the number of windows.
        queries: of that call.
        keys: of that call.
        calls: how often the pass used the module, more than once if layers share it.
        is_uneven: its key/value heads are not those of equally many query heads, as a pruned module's may be.
    """

    name: str
    heads: int
    key_heads: int
    width: int
    rows: int
    queries: int
    keys: int
    calls: int = 1
    is_uneven: bool = False

    @property
    def group(self) -> int | None:
        """The query heads that share a key/value head; None where they are not equally many."""
        return None if self.is_uneven or self.heads % self.key_heads else self.heads // self.key_heads


def is_in(name: str, other: str) -> bool:
    """Returns True if the module of this name is another one, or lies in it."""
    return name == other or name.startswith(f"{other}." if other else "")


def normalize_removed(removed: Mapping[str, Any]) -> Removed:
    """Returns the removed heads as sorted lists; sites that lose none are left out.

    Args:
        removed: site -> a list, set, array or tensor of indices; a mask of booleans is refused.
    """
    if not isinstance(removed, Mapping):
        raise ParameterError("removed", removed, "give {site: indices of its heads}, as hies.select returns them")
    by_site = {site: _indices(site, heads) for site, heads in removed.items()}
    return {site: heads for site, heads in by_site.items() if heads}


def _indices(site: str, heads: Any) -> list[int]:
    values = heads.tolist() if hasattr(heads, "tolist") else heads
    iterable = isinstance(values, Iterable) and not isinstance(values, str)
    values = list(values) if iterable else [values]
    if not iterable or any(isinstance(one, bool) or not isinstance(one, Integral) for one in values):
        raise ParameterError(f"removed[{site!r}]", heads, "give the indices of the heads to remove, as in [0, 3]")
    return sorted({int(one) for one in values})


def join(tensors: "Mapping[str, Tensor]") -> "Tensor":
    """Returns all heads of the model in order of depth, [..., heads of the model]."""
    import torch

    return torch.cat(list(tensors.values()), dim=-1)


def split(joined: "Tensor", heads: Mapping[str, int]) -> SiteTensors:
    """Returns the parts of a joined tensor, the inverse of `join`.

    Args:
        joined: [..., heads of the model].
        heads: site -> its number of heads.
    """
    return dict(zip(heads, joined.split(list(heads.values()), dim=-1), strict=True))
