"""Where an attention module keeps the weights of its heads: one small table of naming conventions.

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
from hies.kept import Kept
from hies.sites import SiteTensors

SEPARATE = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("Wq", "Wk", "Wv"),
)
# Three in one matrix: `blocks` holds all queries, then all keys, then all values; `heads` a query, key, value for each.
FUSED = {"c_attn": "blocks", "Wqkv": "blocks", "qkv_proj": "blocks", "qkv": "blocks", "query_key_value": "heads"}
OUTPUTS = ("o_proj", "out_proj", "out_lin", "Wo", "c_proj", "dense", "o", "proj", "projection_layer", "output")
GATES = ("gate_proj", "g_proj")  # rows per head that scale the head's output
WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
QUERY_NORMS = ("q_norm", "q_layernorm", "query_layernorm", "q_layer_norm", "qk_norm")
KEY_NORMS = ("k_norm", "k_layernorm", "key_layernorm", "k_layer_norm")
# Parts with weights that do not depend on which heads there are; biases by head are picked where they are used.
WHOLE = ("relative_attention_bias", "relative_position_bias", "rotary_emb", "LayerNorm", "v_norm")
SINKS = "sinks"  # one logit a head
# Forwards that work out the number of heads, or the width of one, from the width of the model.
REFUSED: dict[str, str] = {}


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
class Projections:
    """The weights of the heads of one site.

    tied: a norm over all heads together; queries and keys then have to stay whole. own: norms with weights per head.
    """

    heads: int
    key_heads: int
    query: HeadRows
    key: HeadRows
    value: HeadRows
    output: HeadRows
    gates: tuple[HeadRows, ...]
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
    if kind in REFUSED:
        raise UnsupportedModelError(f"The heads of site {site!r} ({kind}) cannot be cut out: {REFUSED[kind]}.")
    inputs = next((names for names in SEPARATE if all(_is_projection(module, name) for name in names)), None)
    fused = next((name for name in FUSED if _is_projection(module, name)), None)
    outside = getattr(model.get_submodule(site.rpartition(".")[0]), "output", None)
    owner = next((m for m in (module, outside) if any(_is_projection(m, name) for name in OUTPUTS)), None)
    width = next((getattr(module, name) for name in WIDTHS if isinstance(getattr(module, name, None), int)), None)
    if (inputs is None and fused is None) or owner is None or width is None:
        raise UnsupportedModelError(
            f"The weights of site {site!r} ({kind}) follow no naming convention that is "
            "known here; the table is in hies/projections.py."
        )
    output = next(name for name in OUTPUTS if _is_projection(owner, name))
    try:
        return _describe(module, inputs or (fused or "",), (owner, output), width)
    except _Strange as error:
        raise UnsupportedModelError(f"The heads of site {site!r} ({kind}) cannot be cut out: {error}.") from None


class _Strange(Exception):
    """A part of a module that this file does not know."""


def _describe(module: nn.Module, inputs: tuple[str, ...], place: tuple[nn.Module, str], width: int) -> Projections:
    kept: Kept | None = getattr(module, Kept.NAME, None)
    value_width = getattr(module, "v_head_dim", width)
    columns = matrix(getattr(*place)).shape[1]
    heads = len(kept.heads) if kept else columns // value_width
    if len(inputs) == 3:
        query, key, value = (
            HeadRows(module, name, torch.arange(len(matrix(getattr(module, name))))) for name in inputs
        )
        key_heads = len(value.rows) // value_width
    else:
        query, key, value = _unpacked(module, inputs[0], heads, width)
        key_heads = len(key.rows) // width
    norms, tied = _norms(module, heads, key_heads, width, kept)
    gates = tuple(
        HeadRows(module, name, torch.arange(len(matrix(getattr(module, name)))))
        for name in GATES
        if _is_projection(module, name)
    )
    output = HeadRows(*place, torch.arange(columns))
    _check_parts(module, {*inputs, *GATES, place[1], *QUERY_NORMS, *KEY_NORMS, *WHOLE, SINKS})
    dense = kept.of if kept and tied else heads
    dense_keys = kept.key_of if kept and tied else key_heads
    return Projections(
        heads,
        key_heads,
        _by_head(query, dense),
        _by_head(key, dense_keys),
        _by_head(value, key_heads),
        _by_head(output, heads),
        tuple(_by_head(gate, heads) for gate in gates),
        tied,
        norms,
    )


def _by_head(found: HeadRows, heads: int) -> HeadRows:
    if not heads or len(found.rows) % heads:
        raise _Strange(f"{found.name} has {len(found.rows)} rows, which {heads} heads cannot share")
    return HeadRows(found.owner, found.name, found.rows.view(heads, -1))


def _unpacked(module: nn.Module, name: str, heads: int, width: int) -> tuple[HeadRows, HeadRows, HeadRows]:
    """The rows of queries, keys and values in one matrix."""
    rows = torch.arange(len(matrix(getattr(module, name))))
    if FUSED[name] == "heads":
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
    ):
        for name in names:
            norm: Any = getattr(module, name, None)
            weights = [p for p in norm.parameters()] if isinstance(norm, nn.Module) else []
            listed = isinstance(getattr(norm, "norms", None), nn.ModuleList)
            if (listed and len(norm.norms) == count) or (weights and all(p.shape == (count, width) for p in weights)):
                own.append(Norm(name, of_keys))
            elif all(p.numel() == width for p in weights):
                continue  # the same for every head
            elif all(p.shape == (dense * width,) for p in weights):
                tied.append(name)
            else:
                raise _Strange(f"its norm {name} has weights of shape {tuple(weights[0].shape)}")
    return tuple(own), tuple(tied)


def _check_parts(module: nn.Module, known: set[str]) -> None:
    """Refuse a part with weights whose role is unknown: cutting around it could give wrong numbers without an error."""
    for name, child in module.named_children():
        if name not in known and any(True for _ in child.parameters()):
            raise _Strange(f"it has a part {name!r} whose share in the heads is not known")
    for name, parameter in module.named_parameters(recurse=False):
        if name not in known and parameter is not None:
            raise _Strange(f"it has a parameter {name!r} whose share in the heads is not known")


def _is_projection(module: nn.Module | None, name: str) -> bool:
    found = getattr(module, name, None)
    return isinstance(found, nn.Linear | Conv1D) and found.weight.is_floating_point()


def weight_norms(model: nn.Module, heads: Mapping[str, int]) -> SiteTensors:
    """L2 norm of each head's query, key and value rows and output columns, {site: [heads]}, float64 on the CPU.

    The rows of a key/value head that several query heads share count for each of them.
    """
    return {site: _weight_norm(find_projections(model, site)) for site in heads}


@torch.no_grad()
def _weight_norm(found: Projections) -> Tensor:
    total = torch.zeros(found.heads, dtype=torch.float64)
    for part in (found.query, found.key, found.value, found.output):
        weights = matrix(part.module)
        rows = weights.T if part is found.output else weights
        squares = rows.double().square().sum(dim=1).cpu()[part.rows].sum(dim=1)  # [heads or key heads]
        total += squares.repeat_interleave(found.heads // len(squares))
    return total.sqrt()
