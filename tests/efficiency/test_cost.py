"""Parameters and FLOPs of a model without some heads: by formula, against a pruned model and torch's counter."""

import pytest
import torch
from architectures import ARCHITECTURES
from tiny_models import make, make_batch, some_heads
from torch.utils.flop_counter import FlopCounterMode

from hies.efficiency.cost import measure_cost
from hies.heads.attention import evaluating, find_sites
from hies.pruning.removal import prune


def inputs_of(name):
    return {key: value for key, value in make_batch(name).items() if key != "labels" or name in ("t5", "bart")}


def counted(model, batch):
    """What torch counts; attention has to be eager for its products to be seen."""
    routed = model.config._attn_implementation.startswith("hies_")
    model.set_attn_implementation("hies_eager" if routed else "eager")
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_formula_says_what_a_pruned_model_has_and_computes(name):
    model, batch = make(name), inputs_of(name)
    sites, found = find_sites(model, batch), measure_cost(model, batch)
    for case in ("some", "a layer", "all"):
        removed = some_heads(sites, case)
        cost, small = found.without(removed), prune(model, removed)
        assert cost.parameters == sum(parameter.numel() for parameter in small.parameters()), case
        assert cost.flops == counted(small, batch), case
        assert cost.flops < found.dense.flops, case
        assert cost.parameters < found.dense.parameters, case
    assert found.dense.flops == counted(model, batch)


def test_a_key_head_goes_with_the_last_of_its_query_heads():
    model, batch = make("llama_grouped"), inputs_of("llama_grouped")
    found = measure_cost(model, batch)
    site = next(iter(find_sites(model, batch)))
    first, both, whole = (found.without({site: heads}).parameters for heads in ([0], [0, 1], [0, 1, 2]))
    assert found.dense.parameters - first == first - both
    assert both - whole > first - both


def test_nothing_removed_costs_what_the_dense_model_costs():
    found = measure_cost(make("bert"), inputs_of("bert"))
    assert found.without({}) == found.dense


def test_a_model_whose_weights_are_not_found_has_no_cost():
    model, batch = make("bert"), inputs_of("bert")
    layer = model.bert.encoder.layer[1].attention
    layer.self.query = torch.nn.Sequential(layer.self.query)
    assert measure_cost(model, batch) is None
