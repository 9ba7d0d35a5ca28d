"""Where an attention module keeps the weights of its heads, by the names in `conventions.py`.

A head owns rows of the query, key and value matrices and columns of the output matrix. What an architecture calls them,
and how it packs them, is all that has to be known of it; everything else is read off the module.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from hies.errors import UnsupportedModelError
from hies.heads import conventions
from hies.heads.forwards import names_used_by
from hies.heads.pruned import PrunedHeads


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
    """

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

    Attributes:
        heads: query heads.
        key_heads: key/value heads.
        width: of a query and a key, which values may not have.
        query: rows of the query matrix.
        key: rows of the key matrix.
        value: rows of the value matrix.
        output: columns of the output matrix.
        gates: rows of matrices that make gates, or keys of positions, for every query head.
        parameters: parameters with a share for every query head.
        joint_norms: names of norms over all heads together; with one, queries and keys have to stay whole.
        head_norms: names of norms with weights for every head, with True for a norm of keys or values.
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
    joint_norms: tuple[str, ...]
    head_norms: dict[str, bool]

    @property
    def groups(self) -> tuple[int, ...]:
        """The key/value head of each query head."""
        pruned = PrunedHeads.of(self.query.owner)
        size = self.heads // self.key_heads
        return (pruned and pruned.groups) or tuple(head // size for head in range(self.heads))

    def places_in(self, part: HeadRows) -> list[int]:
        """Returns which of a projection's heads (or key/value heads) belongs to each query head of the site."""
        pruned = PrunedHeads.of(self.query.owner)
        if pruned and self.joint_norms:  # queries and keys of all heads of the dense module are there
            if part is self.query:
                return list(pruned.heads)
            if part is self.key:
                return [pruned.key_heads[group] for group in self.groups]
        return list(self.groups) if part is self.key or part is self.value else list(range(self.heads))

    @property
    def inputs(self) -> Iterator[tuple[HeadRows, bool]]:
        """What is cut by rows, with True where the rows belong to key/value heads."""
        if not self.joint_norms:
            yield self.query, False
            yield self.key, True
        yield self.value, True
        yield from ((gate, False) for gate in self.gates)


def matrix(module: nn.Module) -> Tensor:
    """Returns the weight of a projection, [outputs, inputs] whatever way the module stores it."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, Conv1D) else weight


def find_projections(model: nn.Module, site: str) -> Projections:
    """Returns the projections of an attention module, found by name in it or (BERT) in its parent's `output`.

    Raises:
        UnsupportedModelError: none of the naming conventions fits, or the module has a part that is not known here.
    """
    try:
        return read_projections(model, site)
    except CannotPruneError as error:
        raise cannot_cut(model, site, str(error)) from None


def cannot_cut(model: nn.Module, site: str, reason: str) -> UnsupportedModelError:
    """Returns the error that says why the heads of a site stay."""
    kind = type(model.get_submodule(site)).__name__
    return UnsupportedModelError(f"The heads of site {site!r} ({kind}) cannot be cut out: {reason}.")


def read_projections(model: nn.Module, site: str) -> Projections:
    """Returns what `find_projections` does, or raises CannotPruneError, whose message is the bare reason."""
    module = model.get_submodule(site)
    outside = getattr(model.get_submodule(site.rpartition(".")[0]), "output", None)
    owners = [owner for owner in (module, outside) if isinstance(owner, nn.Module)]
    places = [(owner, output) for owner in owners for output in conventions.OUTPUTS if _is_projection(owner, output)]
    _check_plain(owners)
    _check_kind(module)
    if places and (found := _describe(module, *places[0])):
        return found
    table = "hies/heads/conventions.py"
    raise CannotPruneError(f"its weights follow no naming convention that is known here; the table is in {table}")


class CannotPruneError(Exception):
    """A module's heads cannot be cut out; the message ends the sentence that `find_projections` makes of it."""


def _check_plain(owners: Sequence[nn.Module]) -> None:
    parts = {name: part for owner in owners for name, part in owner.named_children()}
    if quantised := [name for name, part in parts.items() if is_quantised(part)]:
        raise CannotPruneError(f"its {quantised[0]} is quantised or sharded; load the model with plain weights")


def _check_kind(module: nn.Module) -> None:
    if type(module).__name__ in conventions.REFUSED:
        raise CannotPruneError(conventions.REFUSED[type(module).__name__])
    if any(getattr(module, name, None) for name in conventions.SHARING):
        raise CannotPruneError("layers share its keys and values")
    if getattr(module, "v_proj", module) is None:
        raise CannotPruneError("its values are its keys")
    if getattr(module, "position_embeddings_type", None) == "rotary":
        raise CannotPruneError("it rotates the hidden states by head, before the projections")


def _describe(module: nn.Module, owner: nn.Module, name: str) -> Projections | None:
    pruned = PrunedHeads.of(module)
    columns = matrix(getattr(owner, name)).shape[1]
    width = _width(module, columns)
    if width is None:
        return None
    value_width = getattr(module, "v_head_dim", width)
    heads = len(pruned.heads) if pruned else columns // value_width
    inputs = _inputs(module, heads, width, value_width)
    if inputs is None:
        return None
    query, key, value = inputs
    key_heads = len(value.rows) // value_width
    dense, dense_keys = (pruned.dense_heads, pruned.dense_key_heads) if pruned else (heads, key_heads)
    counts = {"query": (heads, dense), "key": (key_heads, dense_keys), "value": (key_heads, 0)}
    head_norms, joint_norms = _norms(module, width, counts)
    _check_parts(module, {*(part.name for part in inputs), name})
    if joint_norms and names_used_by(module).intersection(conventions.HEAD_COUNTS):
        raise CannotPruneError(
            "it takes one number of heads for values and for queries, which its norm over all heads does not allow"
        )
    if not joint_norms:
        dense, dense_keys = heads, key_heads
    if len(query.rows) not in (dense * width, 2 * dense * width):  # a query, and beside it maybe its gate
        raise CannotPruneError(f"{query.name} has {len(query.rows)} rows for {dense} heads of {width}")
    return Projections(
        heads,
        key_heads,
        width,
        _by_head(query, dense),
        _by_head(key, dense_keys),
        _by_head(value, key_heads),
        _by_head(_whole(owner, name, 1), heads),
        tuple(_by_head(_whole(module, gate), heads) for gate in conventions.BY_HEAD if _is_projection(module, gate)),
        tuple(_parameters(module, heads)),
        joint_norms,
        head_norms,
    )


def _width(module: nn.Module, columns: int) -> int | None:
    """Returns the width of one head's query, by what the module calls it or by its number of heads."""
    widths = (getattr(module, name, None) for name in conventions.WIDTHS)
    width = next((value for value in widths if isinstance(value, int)), None)
    counts = [getattr(module, name) for name in conventions.HEAD_COUNTS if isinstance(getattr(module, name, None), int)]
    return columns // counts[0] if width is None and counts else width


def _inputs(module: nn.Module, heads: int, width: int, value_width: int) -> tuple[HeadRows, HeadRows, HeadRows] | None:
    """Returns the rows of queries, keys and values."""
    for query, key, value in conventions.SEPARATE:
        if all(_is_projection(module, name) for name in (query, key, value)):
            return _whole(module, query), _whole(module, key), _whole(module, value)
    for query, pair in conventions.BESIDE.items():
        if _is_projection(module, query) and _is_projection(module, pair):
            keys, values = (HeadRows(module, pair, rows) for rows in _whole(module, pair).rows.chunk(2))
            return _whole(module, query), keys, values
    if fused := next((name for name in conventions.FUSED if _is_projection(module, name)), None):
        return _unpacked(module, fused, heads, width)
    latent = next((name for name in conventions.LATENT_QUERIES if _is_projection(module, name)), None)
    if latent and _is_projection(module, conventions.LATENT):
        # [heads, key without its rotated part, then value]
        pairs = _by_head(_whole(module, conventions.LATENT), heads).rows
        parts = (pairs[:, :-value_width], pairs[:, -value_width:])
        keys, values = (HeadRows(module, conventions.LATENT, part.reshape(-1)) for part in parts)
        return _whole(module, latent), keys, values
    return None


def _whole(owner: nn.Module, name: str, dim: int = 0) -> HeadRows:
    return HeadRows(owner, name, torch.arange(matrix(getattr(owner, name)).shape[dim]))


def _parameters(module: nn.Module, heads: int) -> Iterator[HeadParameter]:
    parameters = [
        HeadParameter(module, name, 0)
        for name in conventions.PARAMETERS
        if isinstance(getattr(module, name, None), nn.Parameter)
    ]
    bias = getattr(module, "relative_attention_bias", None)
    if type(module).__name__ in conventions.OWN_BIAS and isinstance(bias, nn.Module):
        parameters.append(HeadParameter(bias, "weight", 1))
    for parameter in parameters:
        if (count := parameter.tensor.shape[parameter.dim]) != heads:
            raise CannotPruneError(f"its {parameter.name} is for {count} heads, not {heads}")
        yield parameter


def _by_head(part: HeadRows, heads: int) -> HeadRows:
    if not heads or len(part.rows) % heads:
        raise CannotPruneError(f"{part.name} has {len(part.rows)} rows, which {heads} heads cannot share")
    return HeadRows(part.owner, part.name, part.rows.view(heads, -1))  # [heads, rows of a head]


def _unpacked(module: nn.Module, name: str, heads: int, width: int) -> tuple[HeadRows, HeadRows, HeadRows]:
    """Returns the rows of queries, keys and values in one matrix."""
    rows = _whole(module, name).rows
    multi_query = getattr(module, "multi_query", None)  # GPT-BigCode packs either way
    if conventions.FUSED[name] == "heads" or multi_query is False:
        if len(rows) != heads * 3 * width:
            raise CannotPruneError(f"{name} has {len(rows)} rows, not 3 x {heads} heads of {width}")
        parts = tuple(part.reshape(-1) for part in rows.view(heads, 3, width).unbind(1))  # [heads * width] each
    else:
        rest = len(rows) - heads * width
        if rest <= 0 or rest % (2 * width):
            wanted = f"{heads} query heads of {width} and their keys"
            raise CannotPruneError(f"{name} has {len(rows)} rows, which is not {wanted}")
        parts = rows.split([heads * width, rest // 2, rest // 2])
    query, key, value = (HeadRows(module, name, part) for part in parts)
    return query, key, value


def _norms(
    module: nn.Module, width: int, counts: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, bool], tuple[str, ...]]:
    """Returns the norms with weights per head, as `Projections` has them, and the names of those over all heads.

    Args:
        module: the attention module.
        width: of a head.
        counts: of what the norms of `conventions.NORMS` are -> its heads, and those that one norm over all may have.
    """
    head_norms, joint_norms = {}, []
    for name, of in conventions.NORMS.items():
        norm: Any = getattr(module, name, None)
        count, dense = counts[of]
        weights = [*norm.parameters()] if isinstance(norm, nn.Module) else []
        is_list = isinstance(getattr(norm, "norms", None), nn.ModuleList)
        is_joint = isinstance(norm, nn.LayerNorm | nn.RMSNorm) and norm.normalized_shape != (width,)  # over all heads
        by_head = weights and not is_joint and all(p.shape == (count, width) for p in weights)
        if by_head or (is_list and len(norm.norms) == count):
            head_norms[name] = of != "query"
        elif all(p.numel() == width for p in weights):
            continue  # the same for every head
        elif dense and all(p.shape == (dense * width,) for p in weights):
            joint_norms.append(name)
        else:
            raise CannotPruneError(f"its norm {name} has weights of shape {tuple(weights[0].shape)}")
    return head_norms, tuple(joint_norms)


def _check_parts(module: nn.Module, known: set[str]) -> None:
    """Refuses a part with weights whose role is unknown: cutting around it could silently give wrong numbers."""
    known = known.union(conventions.PARAMETERS, conventions.NORMS, conventions.WHOLE)
    known.update(name for name in conventions.BY_HEAD if _is_projection(module, name))
    for name, child in module.named_children():
        if name not in known and any(True for _ in child.parameters()):
            raise CannotPruneError(f"it has a part {name!r} whose share in the heads is not known")
    for name, parameter in module.named_parameters(recurse=False):
        if name not in known and parameter is not None:
            raise CannotPruneError(f"it has a parameter {name!r} whose share in the heads is not known")


def _is_projection(module: nn.Module, name: str) -> bool:
    return is_plain_matrix(getattr(module, name, None))


def is_plain_matrix(part: Any) -> bool:
    """Returns True for a projection, neither quantised nor parametrised nor a subclass that computes something else."""
    if not isinstance(part, nn.Linear | Conv1D) or "weight" not in part._parameters or is_quantised(part):
        return False
    return type(part).forward in (nn.Linear.forward, Conv1D.forward)


def is_quantised(part: nn.Module) -> bool:
    """Returns True for a module whose weights are no plain floating-point numbers: quantised, or sharded."""
    weights = [getattr(part, name, None) for name in conventions.PACKED]
    packed = [weight for weight in weights if isinstance(weight, Tensor) and not _is_plain(weight)]
    return bool(packed) or ".quantized." in type(part).__module__  # torch's own, whose weight is a method


def _is_plain(weight: Tensor) -> bool:
    return weight.is_floating_point() and weight.dtype.itemsize > 1 and not is_traceable_wrapper_subclass(weight)
