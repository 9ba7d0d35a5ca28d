"""Where an attention module keeps the weights of its heads: one small table of naming conventions."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hies.errors import UnsupportedModelError
from hies.sites import SiteTensors

INPUTS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
OUTPUTS = ("o_proj", "out_proj", "out_lin", "dense", "o")


@dataclass(frozen=True)
class Projections:
    """The matrices of an attention module; a head is rows of query, key and value, and columns of output."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear


def find_projections(model: nn.Module, site: str) -> Projections:
    """The projections of the attention module named `site`, found by name in it or (BERT) in its parent's `output`.

    Raises:
        UnsupportedModelError: none of the naming conventions fits.
    """
    module = model.get_submodule(site)
    inputs = next((names for names in INPUTS if all(_is_linear(module, name) for name in names)), None)
    outside = getattr(model.get_submodule(site.rpartition(".")[0]), "output", None)
    owner = next((m for m in (module, outside) if any(_is_linear(m, name) for name in OUTPUTS)), None)
    if inputs is None or owner is None:
        raise UnsupportedModelError(
            f"The weights of site {site!r} ({type(module).__name__}) follow no naming convention that is "
            "known here; the table is in hies/projections.py."
        )
    output = next(name for name in OUTPUTS if _is_linear(owner, name))
    query, key, value = (getattr(module, name) for name in inputs)
    return Projections(query, key, value, getattr(owner, output))


def _is_linear(module: nn.Module | None, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Linear)


def weight_norms(model: nn.Module, heads: Mapping[str, int]) -> SiteTensors:
    """L2 norm of each head's query, key and value rows and output columns, {site: [heads]}, float64 on the CPU.

    The rows of a key/value head that several query heads share count for each of them.
    """
    return {site: _weight_norm(find_projections(model, site), count) for site, count in heads.items()}


@torch.no_grad()
def _weight_norm(projections: Projections, heads: int) -> Tensor:
    width = projections.output.weight.shape[1] // heads
    total = torch.zeros(heads, dtype=torch.float64)
    for rows in (
        projections.query.weight,
        projections.key.weight,
        projections.value.weight,
        projections.output.weight.T,
    ):
        squares = rows.double().square().sum(dim=1).view(-1, width).sum(dim=1).cpu()  # [heads or key heads]
        total += squares.repeat_interleave(heads // len(squares))
    return total.sqrt()


def parameters_of_a_head(projections: Projections, heads: int) -> int:
    """Weights and biases that go with one of the `heads` query heads, its share of grouped keys and values included."""
    inputs = (projections.query, projections.key, projections.value)
    rows = sum(p.weight.numel() + (0 if p.bias is None else p.bias.numel()) for p in inputs)
    return (rows + projections.output.weight.numel()) // heads
