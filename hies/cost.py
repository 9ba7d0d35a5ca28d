"""Parameters and floating-point operations of a model, dense and without some of its heads."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from hies.attention import Site, evaluating, find_sites
from hies.batching import Batch
from hies.errors import UnsupportedModelError
from hies.projections import find_projections, parameters_of_a_head


@dataclass(frozen=True)
class Cost:
    """parameters: weights and biases of the whole model. flops: of one forward pass, a multiply-add counted as two."""

    parameters: int
    flops: int


@dataclass(frozen=True)
class CostModel:
    """The cost of a model for one batch, and what each head of a site adds to it."""

    dense: Cost
    head: dict[str, Cost]

    def without(self, removed: Mapping[str, list[int]]) -> Cost:
        """The cost after the given heads are cut out."""
        return Cost(
            self.dense.parameters - sum(self.head[site].parameters * len(heads) for site, heads in removed.items()),
            self.dense.flops - sum(self.head[site].flops * len(heads) for site, heads in removed.items()),
        )


def measure_cost(model: PreTrainedModel, batch: Batch) -> CostModel | None:
    """Count the dense model with torch's flop counter, and its heads by formula; None where weights are not found.

    A head costs 2 FLOPs for each of its weights and each token that it acts on (keys and values: those attended to),
    and 4 * queries * keys * width for scores and output.
    """
    sites = find_sites(model, batch)
    try:
        heads = {name: _head_cost(model, site) for name, site in sites.items()}
    except UnsupportedModelError:
        return None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return CostModel(Cost(parameters, _flops(model, batch)), heads)


def _head_cost(model: nn.Module, site: Site) -> Cost:
    projections = find_projections(model, site.name)
    on_queries = projections.query.weight.numel() + projections.output.weight.numel()
    on_keys = projections.key.weight.numel() + projections.value.weight.numel()
    products = 2 * (site.queries * on_queries + site.keys * on_keys) // site.heads
    products += 4 * site.queries * site.keys * site.width
    return Cost(parameters_of_a_head(projections, site.heads), site.calls * site.rows * products)


@torch.no_grad()
def _flops(model: PreTrainedModel, batch: Batch) -> int:
    implementation = model.config._attn_implementation
    counter = FlopCounterMode(display=False)
    try:
        model.set_attn_implementation("eager")  # fused kernels on the CPU hide the attention products from the counter
        with evaluating(model), counter:
            model(**batch)
    finally:
        model.set_attn_implementation(implementation)
    return counter.get_total_flops()
