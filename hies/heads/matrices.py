"""Matrices whose rows or columns are shared out among heads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from hies.heads import conventions


@dataclass(frozen=True)
class HeadRows:
    """The outputs of a projection (its inputs, for the output matrix) that belong to each head.

    Attributes:
        owner: the module that has the projection.
        name: of the attribute that is the projection.
        rows: indices of outputs, int64 [heads, rows of a head].
    """

    owner: nn.Module
    name: str
    rows: Tensor

    @property
    def module(self) -> nn.Module:
        """A torch Linear, or the Conv1D of GPT-2."""
        return getattr(self.owner, self.name)


@dataclass(frozen=True)
class HeadParameter:
    """A parameter that has a share for every head.

    Attributes:
        owner: the module that has the parameter.
        name: of the attribute that is the parameter.
        dim: the dimension that counts the heads.
        share: entries of a head in that dimension.
    """

    owner: nn.Module
    name: str
    dim: int
    share: int

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter itself."""
        return getattr(self.owner, self.name)


class CannotPruneError(Exception):
    """A module's heads cannot be cut out; the message ends the sentence that `find_projections` makes of it."""


def matrix(module: nn.Module) -> Tensor:
    """Returns the weight of a projection, [outputs, inputs] whatever way the module stores it."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, Conv1D) else weight


def whole(owner: nn.Module, name: str, dim: int = 0) -> HeadRows:
    """Returns all outputs (dim 0) or inputs (dim 1) of a projection, of no head yet."""
    return HeadRows(owner, name, torch.arange(matrix(getattr(owner, name)).shape[dim]))


def by_head(part: HeadRows, heads: int) -> HeadRows:
    """Returns rows that are shared out evenly, in order."""
    if not heads or len(part.rows) % heads:
        raise CannotPruneError(f"{part.name} has {len(part.rows)} rows, which {heads} heads cannot share")
    return HeadRows(part.owner, part.name, part.rows.view(heads, -1))  # [heads, rows of a head]


def unpacked(module: nn.Module, name: str, heads: int, width: int) -> tuple[HeadRows, HeadRows, HeadRows]:
    """Returns the rows of queries, keys and values in one matrix."""
    rows = whole(module, name).rows
    rest = len(rows) - heads * width
    key_heads = rest // (2 * width)
    if rest <= 0 or rest % (2 * width):
        wanted = f"{heads} query heads of {width} and their keys"
        raise CannotPruneError(f"{name} has {len(rows)} rows, which is not {wanted}")
    multi_query = getattr(module, "multi_query", None)  # GPT-BigCode packs either way
    if conventions.FUSED[name] == "heads" or multi_query is False:
        is_shared = any(getattr(module, flag, False) for flag in conventions.SHARED_KEYS)
        if heads % key_heads or (key_heads != heads and not is_shared):
            raise CannotPruneError(f"{name} has {key_heads} key heads for {heads} query heads")
        groups = rows.view(key_heads, heads // key_heads + 2, width)  # the queries of a key head, it, its value
        parts = tuple(part.reshape(-1) for part in groups.split([heads // key_heads, 1, 1], 1))
    else:
        parts = rows.split([heads * width, rest // 2, rest // 2])
    query, key, value = (HeadRows(module, name, part) for part in parts)
    return query, key, value


def is_projection(module: nn.Module, name: str) -> bool:
    """Returns True if an attribute of a module is a plain matrix."""
    return is_plain_matrix(getattr(module, name, None))


def is_plain_matrix(part: Any) -> bool:
    """Returns True for a projection, neither quantised nor parametrised nor a subclass that computes something else."""
    if not isinstance(part, nn.Linear | Conv1D) or "weight" not in part._parameters or is_quantised(part):
        return False
    return type(part).forward in (nn.Linear.forward, Conv1D.forward) or type(part).__name__ in conventions.LINEAR


def is_quantised(part: nn.Module) -> bool:
    """Returns True for a module whose weights are no plain floating-point numbers: quantised, or sharded."""
    weights = [getattr(part, name, None) for name in conventions.PACKED]
    packed = [weight for weight in weights if isinstance(weight, Tensor) and not _is_plain(weight)]
    return bool(packed) or ".quantized." in type(part).__module__  # torch's own, whose weight is a method


def _is_plain(weight: Tensor) -> bool:
    return weight.is_floating_point() and weight.dtype.itemsize > 1 and not is_traceable_wrapper_subclass(weight)
