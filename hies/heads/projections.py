"""Where an attention module keeps the weights of its heads, by the names in `conventions.py`.

A head owns rows of the query, key and value matrices and columns of the output matrix. What an architecture calls them,
and how it packs them, is all that has to be known of it; everything else is read off the module.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hies.errors import UnsupportedModelError
from hies.heads import conventions
from hies.heads.calls import first_count
from hies.heads.forwards import names_reached_by, names_used_by
from hies.heads.matrices import (
    CannotPruneError,
    HeadParameter,
    HeadRows,
    by_head,
    is_plain_matrix,
    is_projection,
    is_quantised,
    matrix,
    unpacked,
    whole,
)
from hies.heads.pruned import PrunedHeads
from hies.heads.recognition import computes_attention


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
    around = model.get_submodule(site.rpartition(".")[0])
    outside = getattr(around, "output", None)
    owners = [owner for owner in (module, outside) if isinstance(owner, nn.Module)]
    places = [(owner, output) for owner in owners for output in conventions.OUTPUTS if is_projection(owner, output)]
    if is_plain_matrix(outside) and "Attention" in type(around).__name__:  # BigBird-Pegasus
        places.append((around, "output"))
    _check_plain(owners)
    _check_kind(module)
    if places and (found := _describe(module, *places[0])):
        return found
    table = "hies/heads/conventions.py"
    unknown = f"its weights follow no naming convention that is known here; the table is in {table}"
    raise CannotPruneError(_changed_part(owners) or unknown)


def _changed_part(owners: Sequence[nn.Module]) -> str:
    """Returns what to say of a matrix that is no plain one any more, "" where there is none."""
    for name, part in (child for owner in owners for child in owner.named_children()):
        if not isinstance(part, nn.Linear | Conv1D) or is_plain_matrix(part):
            continue
        if "weight" in part._parameters:
            return f"its {name} is a {type(part).__name__}, and what that computes is not known"
        remove = "remove_parametrizations, or remove of torch.nn.utils.prune, does"
        return f"the weight of its {name} is made of other tensors; make it plain, as torch's {remove}"
    return ""


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
    if computes_attention(module):
        _check_own_softmax(module)
    if getattr(module, "position_embeddings_type", None) == "rotary":
        raise CannotPruneError("it rotates the hidden states by head, before the projections")


def _check_own_softmax(module: nn.Module) -> None:
    """Refuses a module that computes its softmax by itself, out of what nobody can bring to the heads that are left."""
    if F.multi_head_attention_forward.__name__ in names_reached_by(module):
        raise CannotPruneError("torch's own attention function takes square matrices of queries alone")
    if any(isinstance(getattr(module, name, None), nn.Parameter) for names in conventions.SEPARATE for name in names):
        raise CannotPruneError("its projections are parameters, not matrices")
    makers = [getattr(module, name, None) for name in ("relative_attention_bias", *conventions.BIASES)]
    is_biased = any(isinstance(maker, nn.Module | Tensor) for maker in makers)
    if is_biased and not any(hasattr(part, conventions.BIAS_TABLE) for part in module.modules()):
        raise CannotPruneError("it makes a bias for all heads where it computes its softmax")


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
    parameters = tuple(_parameters(module, heads, width))
    _check_parts(module, {*(part.name for part in inputs), *(parameter.name for parameter in parameters), name})
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
        by_head(query, dense),
        by_head(key, dense_keys),
        by_head(value, key_heads),
        by_head(whole(owner, name, 1), heads),
        tuple(by_head(whole(module, gate), heads) for gate in conventions.BY_HEAD if is_projection(module, gate)),
        parameters,
        joint_norms,
        head_norms,
    )


def _width(module: nn.Module, columns: int) -> int | None:
    """Returns the width of one head's query, by what the module calls it or by its number of heads."""
    width, heads = (first_count(module, names) for names in (conventions.WIDTHS, conventions.HEAD_COUNTS))
    return columns // heads if width is None and heads else width


def _inputs(module: nn.Module, heads: int, width: int, value_width: int) -> tuple[HeadRows, HeadRows, HeadRows] | None:
    """Returns the rows of queries, keys and values."""
    for query, key, value in conventions.SEPARATE:
        if all(is_projection(module, name) for name in (query, key, value)):
            return whole(module, query), whole(module, key), whole(module, value)
    for query, pair in conventions.BESIDE.items():
        if is_projection(module, query) and is_projection(module, pair):
            keys, values = (HeadRows(module, pair, rows) for rows in whole(module, pair).rows.chunk(2))
            return whole(module, query), keys, values
    if fused := next((name for name in conventions.FUSED if is_projection(module, name)), None):
        return unpacked(module, fused, heads, width)
    latent = next((name for name in conventions.LATENT_QUERIES if is_projection(module, name)), None)
    if latent and is_projection(module, conventions.LATENT):
        # [heads, key without its rotated part, then value]
        pairs = by_head(whole(module, conventions.LATENT), heads).rows
        parts = (pairs[:, :-value_width], pairs[:, -value_width:])
        keys, values = (HeadRows(module, conventions.LATENT, part.reshape(-1)) for part in parts)
        return whole(module, latent), keys, values
    return None


def _parameters(module: nn.Module, heads: int, width: int) -> Iterator[HeadParameter]:
    places = [(module, name, 0) for name in conventions.PARAMETERS]
    bias = getattr(module, "relative_attention_bias", None)
    if type(module).__name__ in conventions.OWN_BIAS and isinstance(bias, nn.Module):
        places.append((bias, "weight", 1))
    if computes_attention(module):
        places += [(part, conventions.BIAS_TABLE, 1) for part in module.modules()]
        places += [(part, "weight", 0) for part in (*getattr(module, conventions.BIAS_MLP, ()),)[-1:]]
    for owner, name, dim in places:
        if not isinstance(parameter := getattr(owner, name, None), nn.Parameter):
            continue
        if (count := parameter.shape[dim]) not in (heads, heads * width):
            raise CannotPruneError(f"its {name} is for {count} heads, not {heads}")
        yield HeadParameter(owner, name, dim, count // heads)


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
    known = known.union({conventions.BIAS_MLP}, conventions.PARAMETERS, conventions.NORMS, conventions.WHOLE)
    known.update(name for name in conventions.BY_HEAD if is_projection(module, name))
    for name, child in module.named_children():
        if name not in known and any(True for _ in child.parameters()):
            raise CannotPruneError(f"it has a part {name!r} whose share in the heads is not known")
    for name, parameter in module.named_parameters(recurse=False):
        if name not in known and parameter is not None:
            raise CannotPruneError(f"it has a parameter {name!r} whose share in the heads is not known")
