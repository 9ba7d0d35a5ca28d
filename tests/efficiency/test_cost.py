"""Parameters and FLOPs of a model without some heads: by formula, against a pruned model and torch's counter."""

import copy

import pytest
import torch
import transformers as tf
from architectures import ARCHITECTURES
from tiny_models import make, make_batch, some_heads
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hies
from hies.efficiency.cost import count, measure_cost
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


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm", "eager"])
def test_experts_count_whatever_computes_them(name, implementation):
    model, batch = make(name), inputs_of(name)
    expected = counted(copy.deepcopy(model), batch)  # in eager experts
    model.config._experts_implementation = implementation
    assert count(model, batch).flops == expected
    assert model.config._experts_implementation == implementation


def test_products_of_experts_are_those_of_the_tokens_that_each_takes():
    shape = {"vocab_size": 67, "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "num_local_experts": 4, "num_experts_per_tok": 2}
    model = tf.MixtralForCausalLM(tf.MixtralConfig(**shape, **heads)).eval()
    tokens = 3 * 11
    projections = 2 * tokens * 48 * 16 * (6 + 3 + 3 + 6)
    products = 2 * 3 * 6 * 11 * 11 * (16 + 16)
    experts = 2 * tokens * (48 * 4 + 2 * 3 * 48 * 32)  # the router, and three matrices of two experts
    batch = {"input_ids": torch.randint(3, 67, (3, 11))}
    assert count(model, batch).flops == 2 * (projections + products + experts) + 2 * tokens * 48 * 67


@pytest.mark.parametrize("kind", ["SamVision", "Data2VecVision"])
def test_attention_whose_class_calls_the_fused_function_counts_as_the_other(kind):
    sam = {"output_channels": 8, "window_size": 3, "global_attn_indexes": [1], "mlp_dim": 16}
    own = sam if kind == "SamVision" else {"intermediate_size": 16}
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    config, batch = getattr(tf, f"{kind}Config")(**shape, **own), {"pixel_values": torch.randn(2, 3, 32, 32)}
    fused, eager = (
        getattr(tf, f"{kind}Model")._from_config(copy.deepcopy(config), attn_implementation=way).eval()
        for way in ("sdpa", "eager")
    )
    assert count(fused, batch) == count(eager, batch)
    small = hies.prune(fused, {site: [0] for site in find_sites(fused, batch)})
    found = hies.summary(small, batch)
    assert (found.dense.flops, found.small.flops) == (count(eager, batch).flops, count(small, batch).flops)


def test_the_layers_of_torch_count_their_products():
    class Itself(tf.PreTrainedModel):
        config_class = tf.PreTrainedConfig

        def __init__(self):
            super().__init__(tf.PreTrainedConfig())
            self.layer = nn.TransformerEncoderLayer(35, 5, 17, batch_first=True)

        def forward(self, hidden):
            return self.layer(hidden)

    tokens = 2 * 11
    expected = 2 * tokens * (4 * 35 * 35 + 2 * 35 * 17) + 2 * 2 * 5 * 11 * 11 * (7 + 7)
    assert count(Itself().eval(), {"hidden": torch.randn(2, 11, 35)}).flops == expected


@pytest.mark.parametrize("name", ["bloom", "mpt", "mpnet"])
def test_a_layer_without_heads_that_computes_its_own_softmax_multiplies_as_if_it_had_one(name):
    model, batch = make(name), inputs_of(name)
    first, *_ = sites = find_sites(model, batch)
    removed = {first: range(sites[first].heads)}
    assert measure_cost(model, batch).without(removed) == count(prune(model, removed), batch)
