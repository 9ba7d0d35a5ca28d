"""Parameters and FLOPs of a model without some heads: by formula, against torch's counter module by module."""

from collections import Counter

import pytest
import torch
from conftest import make, make_batch
from torch.utils.flop_counter import FlopCounterMode

from hies.attention import evaluating, find_sites
from hies.cost import measure_cost
from hies.projections import find_projections

NAMES = ["bert", "albert", "distilbert", "llama", "llama_grouped", "vit", "swin", "t5", "bart"]


def inputs_of(name):
    return {key: value for key, value in make_batch(name).items() if key != "labels" or name in ("t5", "bart")}


def counted(model, batch, sites):
    """What torch counts in the projections of all sites, and for their two products of queries, keys and values."""
    projections = {}
    for site in sites:
        found = find_projections(model, site)
        for module in (found.query, found.key, found.value, found.output):
            projections[module] = 0

    def count(module, args, output):
        rows = output.numel() // output.shape[-1]
        projections[module] += 2 * rows * module.weight.numel()

    handles = [module.register_forward_hook(count) for module in projections]
    model.set_attn_implementation("eager")
    try:
        with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    by_operation = Counter({str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()})
    return sum(projections.values()), by_operation, counter.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_the_heads_cost_what_their_projections_and_products_cost(name):
    model, batch = make(name), inputs_of(name)
    sites = find_sites(model, batch)
    found = measure_cost(model, batch)
    everything = {site: list(range(one.heads)) for site, one in sites.items()}
    removed = found.dense.flops - found.without(everything).flops
    in_projections, by_operation, total = counted(model, batch, sites)
    products = removed - in_projections
    assert found.dense.flops == total
    assert products == pytest.approx(by_operation["aten.bmm"], rel=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_of_all_heads_are_those_of_the_projections_less_the_output_bias(name):
    model, batch = make(name), inputs_of(name)
    sites = find_sites(model, batch)
    found = measure_cost(model, batch)
    everything = {site: list(range(one.heads)) for site, one in sites.items()}
    weights = 0
    for site in sites:
        parts = find_projections(model, site)
        weights += sum(p.numel() for m in (parts.query, parts.key, parts.value) for p in m.parameters())
        weights += parts.output.weight.numel()
    assert found.dense.parameters - found.without(everything).parameters == weights
    assert found.without({}) == found.dense


def test_half_of_the_heads_cost_half_of_what_all_cost():
    model, batch = make("llama"), inputs_of("llama")
    found = measure_cost(model, batch)
    site = next(iter(find_sites(model, batch)))
    all_of, half_of = found.without({site: [0, 1, 2, 3, 4, 5]}), found.without({site: [0, 2, 5]})
    assert 2 * (found.dense.flops - half_of.flops) == found.dense.flops - all_of.flops


def test_an_architecture_whose_weights_are_not_found_has_no_cost():
    assert measure_cost(make("gpt2"), inputs_of("gpt2")) is None
