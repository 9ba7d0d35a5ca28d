"""Where an attention module keeps the weights of its heads, by the names in `conventions.py`.

A head owns rows of the query, key and value matrices and columns of the output matrix. What an architecture calls them,
and how it packs them, is all that has to be known of it; everything else is read off the module.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hies.errors import UnsupportedModelError
from hies.heads.conventions import (
    BY_HEAD,
    FUSED,
    HEADS,
    KEY_NORMS,
    LATENT,
    LATENT_QUERIES,
    OUTPUTS,
    OWN_BIAS,
    PARAMETERS,
    QUERY_NORMS,
    REFUSED,
    SEPARATE,
    SHARING,
    VALUE_NORMS,
    WHOLE,
    WIDTHS,
)
from hies.heads.forwards import reads
from hies.heads.pruned_heads import Kept
from hies.heads.sites import SiteTensors


@dataclass(frozen=True)
class HeadRows:
    """The outputs of a projection (its inputs, for the output matrix) that belong to each head, int64 [heads, rows].

    owner, name: the projection is the attribute `name` of the module `owner`.
    """

    owner: nn.Module
    name: str
    rows: Tensor

    @property
    def module(self) -> nn.Module:
        """A torch Linear, or the Conv1D of GPT-2."""
        return getattr(self.owner, self.name)


@dataclass(frozen=True)
class Norm:
    """A norm of the queries (or keys) that has weights of its own for every head. name: attribute of the site."""

    name: str
    of_keys: bool


@dataclass(frozen=True)
class HeadParameter:
    """A parameter, the attribute `name` of `owner`, whose dimension `dim` counts the heads."""

    owner: nn.Module
    name: str
    dim: int

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter itself."""
        return getattr(self.owner, self.name)


@dataclass(frozen=True)
class Projections:
    """The weights of the heads of one site.

    width: of a query and a key, which values may not have. tied: a norm over all heads together; queries and keys then
    have to stay whole. own: norms with weights per head.
    """

    heads: int
    key_heads: int
    width: int
    query: HeadRows
    key: HeadRows
    value: HeadRows
    output: HeadRows
    gates: tuple[HeadRows, ...]
    parameters: tuple[HeadParameter, ...]
    tied: tuple[str, ...]
    own: tuple[Norm, ...]

    @property
    def groups(self) -> tuple[int, ...]:
        """The key/value head of each query head."""
        kept: Kept | None = getattr(self.query.owner, Kept.NAME, None)
        size = self.heads // self.key_heads
        return (kept and kept.groups) or tuple(head // size for head in range(self.heads))

    @property
    def inputs(self) -> Iterator[tuple[HeadRows, bool]]:
        """What is cut by rows, and whether its rows belong to key/value heads."""
        if not self.tied:
            yield self.query, False
            yield self.key, True
        yield self.value, True
        yield from ((gate, False) for gate in self.gates)


def matrix(module: nn.Module) -> Tensor:
    """The weight of a projection, [outputs, inputs] whatever way the module stores it."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, Conv1D) else weight


def find_projections(model: nn.Module, site: str) -> Projections:
    """The projections of the attention module named `site`, found by name in it or (BERT) in its parent's `output`.

    Raises:
        UnsupportedModelError: none of the naming conventions fits, or the module has a part that is not known here.
    """
    module = model.get_submodule(site)
    kind = type(module).__name__
    outside = getattr(model.get_submodule(site.rpartition(".")[0]), "output", None)
    owners = [owner for owner in (module, outside) if isinstance(owner, nn.Module)]
    places = [(owner, name) for owner in owners for name in OUTPUTS if _is_projection(owner, name)]
    try:
        _check_kind(module)
        found = _describe(module, *places[0]) if places else None
    except _Strange as error:
        raise UnsupportedModelError(f"The heads of site {site!r} ({kind}) cannot be cut out: {error}.") from None
    if found is None:
        raise UnsupportedModelError(
            f"The weights of site {site!r} ({kind}) follow no naming convention that is "
            "known here; the table is in hies/conventions.py."
        )
    return found


class _Strange(Exception):
    """What keeps a module's heads from being cut out."""


def _check_kind(module: nn.Module) -> None:
    if type(module).__name__ in REFUSED:
        raise _Strange(REFUSED[type(module).__name__])
    if any(getattr(module, name, None) for name in SHARING):
        raise _Strange("layers share its keys and values")
    if getattr(module, "position_embeddings_type", None) == "rotary":
        raise _Strange("it rotates the hidden states by head, before the projections")


def _describe(module: nn.Module, owner: nn.Module, name: str) -> Projections | None:
    kept: Kept | None = getattr(module, Kept.NAME, None)
    columns = matrix(getattr(owner, name)).shape[1]
    width = _width(module, columns)
    if width is None:
        return None
    value_width = getattr(module, "v_head_dim", width)
    heads = len(kept.heads) if kept else columns // value_width
    inputs = _inputs(module, heads, width, value_width)
    if inputs is None:
        return None
    query, key, value = inputs
    key_heads = len(value.rows) // value_width
    norms, tied = _norms(module, heads, key_heads, width, kept)
    _check_parts(module, {*(part.name for part in inputs), name})
    if tied and reads(module).intersection(HEADS):
        raise _Strange("it takes one number of heads for values and for queries, which its norm over all heads ties")
    dense, dense_keys = (kept.of, kept.key_of) if kept and tied else (heads, key_heads)
    if len(query.rows) not in (dense * width, 2 * dense * width):  # a query, and beside it maybe its gate
        raise _Strange(f"{query.name} has {len(query.rows)} rows for {dense} heads of {width}")
    return Projections(
        heads,
        key_heads,
        width,
        _by_head(query, dense),
        _by_head(key, dense_keys),
        _by_head(value, key_heads),
        _by_head(_whole(owner, name, 1), heads),
        tuple(_by_head(_whole(module, gate), heads) for gate in BY_HEAD if _is_projection(module, gate)),
        tuple(_parameters(module, heads)),
        tied,
        norms,
    )


def _width(module: nn.Module, columns: int) -> int | None:
    """The width of one head's query, by what the module calls it or by its number of heads."""
    found = (getattr(module, name, None) for name in WIDTHS)
    width = next((value for value in found if isinstance(value, int)), None)
    counts = [getattr(module, name) for name in HEADS if isinstance(getattr(module, name, None), int)]
    return columns // counts[0] if width is None and counts else width


def _inputs(module: nn.Module, heads: int, width: int, value_width: int) -> tuple[HeadRows, HeadRows, HeadRows] | None:
    """The rows of queries, keys and values."""
    for query, key, value in SEPARATE:
        if all(_is_projection(module, name) for name in (query, key, value)):
            return _whole(module, query), _whole(module, key), _whole(module, value)
    if fused := next((name for name in FUSED if _is_projection(module, name)), None):
        return _unpacked(module, fused, heads, width)
    latent = next((name for name in LATENT_QUERIES if _is_projection(module, name)), None)
    if latent and _is_projection(module, LATENT):
        pairs = _by_head(_whole(module, LATENT), heads).rows  # [heads, key without its rotated part, then value]
        parts = (pairs[:, :-value_width], pairs[:, -value_width:])
        return _whole(module, latent), *(HeadRows(module, LATENT, part.reshape(-1)) for part in parts)  # type: ignore
    return None


def _whole(owner: nn.Module, name: str, dim: int = 0) -> HeadRows:
    return HeadRows(owner, name, torch.arange(matrix(getattr(owner, name)).shape[dim]))


def _parameters(module: nn.Module, heads: int) -> Iterator[HeadParameter]:
    found = [
        HeadParameter(module, name, 0) for name in PARAMETERS if isinstance(getattr(module, name, None), nn.Parameter)
    ]
    bias = getattr(module, "relative_attention_bias", None)
    if type(module).__name__ in OWN_BIAS and isinstance(bias, nn.Module):
        found.append(HeadParameter(bias, "weight", 1))
    for parameter in found:
        if parameter.tensor.shape[parameter.dim] != heads:
            raise _Strange(f"its {parameter.name} is for {parameter.tensor.shape[parameter.dim]} heads, not {heads}")
        yield parameter


def _by_head(found: HeadRows, heads: int) -> HeadRows:
    if not heads or len(found.rows) % heads:
        raise _Strange(f"{found.name} has {len(found.rows)} rows, which {heads} heads cannot share")
    return HeadRows(found.owner, found.name, found.rows.view(heads, -1))


def _unpacked(module: nn.Module, name: str, heads: int, width: int) -> tuple[HeadRows, HeadRows, HeadRows]:
    """The rows of queries, keys and values in one matrix."""
    rows = _whole(module, name).rows
    by_head = FUSED[name] == "heads" or getattr(module, "multi_query", None) is False  # GPT-BigCode has both
    if by_head:
        if len(rows) != heads * 3 * width:
            raise _Strange(f"{name} has {len(rows)} rows, not 3 x {heads} heads of {width}")
        parts = tuple(part.reshape(-1) for part in rows.view(heads, 3, width).unbind(1))
    else:
        rest = len(rows) - heads * width
        if rest <= 0 or rest % (2 * width):
            raise _Strange(f"{name} has {len(rows)} rows, which is not {heads} query heads of {width} and their keys")
        parts = rows.split([heads * width, rest // 2, rest // 2])
    query, key, value = (HeadRows(module, name, part) for part in parts)
    return query, key, value


def _norms(
    module: nn.Module, heads: int, key_heads: int, width: int, kept: Kept | None
) -> tuple[tuple[Norm, ...], tuple[str, ...]]:
    """The norms of queries and keys that have weights per head, and the names of those over all heads together."""
    own, tied = [], []
    for names, of_keys, count, dense in (
        (QUERY_NORMS, False, heads, kept.of if kept else heads),
        (KEY_NORMS, True, key_heads, kept.key_of if kept else key_heads),
        (VALUE_NORMS, True, key_heads, 0),
    ):
        for name in names:
            norm: Any = getattr(module, name, None)
            weights = [p for p in norm.parameters()] if isinstance(norm, nn.Module) else []
            listed = isinstance(getattr(norm, "norms", None), nn.ModuleList)
            joint = isinstance(norm, nn.LayerNorm | nn.RMSNorm)  # torch's own norm over all that they have weights for
            by_head = weights and not joint and all(p.shape == (count, width) for p in weights)
            if by_head or (listed and len(norm.norms) == count):
                own.append(Norm(name, of_keys))
            elif all(p.numel() == width for p in weights):
                continue  # the same for every head
            elif dense and all(p.shape == (dense * width,) for p in weights):
                tied.append(name)
            else:
                raise _Strange(f"its norm {name} has weights of shape {tuple(weights[0].shape)}")
    return tuple(own), tuple(tied)


def _check_parts(module: nn.Module, known: set[str]) -> None:
    """Refuse a part with weights whose role is unknown: cutting around it could give wrong numbers without an error."""
    known = known.union(PARAMETERS, QUERY_NORMS, KEY_NORMS, VALUE_NORMS, WHOLE)
    known.update(name for name in BY_HEAD if _is_projection(module, name))
    for name, child in module.named_children():
        if name not in known and any(True for _ in child.parameters()):
            raise _Strange(f"it has a part {name!r} whose share in the heads is not known")
    for name, parameter in module.named_parameters(recurse=False):
        if name not in known and parameter is not None:
            raise _Strange(f"it has a parameter {name!r} whose share in the heads is not known")


def _is_projection(module: nn.Module, name: str) -> bool:
    """Whether it is a plain matrix: no quantised or parametrised one, nor a subclass that computes something else."""
    found = getattr(module, name, None)
    if not isinstance(found, nn.Linear | Conv1D) or "weight" not in found._parameters:
        return False
    return type(found).forward in (nn.Linear.forward, Conv1D.forward) and found.weight.is_floating_point()


def weight_norms(model: nn.Module, heads: Mapping[str, int]) -> SiteTensors:
    """L2 norm of each head's query, key and value rows and output columns, {site: [heads]}, float64 on the CPU.

    The rows of a key/value head that several query heads share count for each of them.
    """
    return {site: _weight_norm(find_projections(model, site)) for site in heads}


@torch.no_grad()
def _weight_norm(found: Projections) -> Tensor:
    kept: Kept | None = getattr(found.query.owner, Kept.NAME, None)
    heads, groups = torch.arange(found.heads), torch.tensor(found.groups)
    whole = kept is not None and bool(found.tied)  # queries and keys of all the dense module's heads are there
    own = torch.tensor(kept.heads) if kept and whole else heads
    shared = torch.tensor(kept.key_heads)[groups] if kept and whole else groups
    total = torch.zeros(found.heads, dtype=torch.float64)
    for part, places in ((found.query, own), (found.key, shared), (found.value, groups), (found.output, heads)):
        weights = matrix(part.module)
        rows = weights.T if part is found.output else weights
        total += rows.double().square().sum(dim=1).cpu()[part.rows].sum(dim=1)[places]
    return total.sqrt()
