"""Models of seven billion parameters, by their shapes alone, and one layer of that width for real."""

import pytest
import torch
import transformers as tf
from torch._subclasses.fake_tensor import FakeTensorMode

import hies
from benchmarks.seven_billion import scoring_memory
from hies.efficiency.cost import measure_cost

CARD = 24e9  # bytes


@pytest.fixture(scope="module")
def meta():
    """LLaMA-2-7B without numbers in it: every tensor has a shape and no data."""
    with torch.device("meta"):
        return tf.LlamaForCausalLM(tf.LlamaConfig(dtype="bfloat16")).eval()


@pytest.fixture(scope="module")
def sites(meta):
    return hies.find_sites(meta, {"input_ids": torch.zeros(1, 2048, dtype=torch.int64, device="meta")})


def test_the_heads_of_a_model_without_data_are_found(meta, sites):
    assert sum(parameter.numel() for parameter in meta.parameters()) == 6_738_415_616
    assert list(sites) == [f"model.layers.{i}.self_attn" for i in range(32)]
    assert {(s.heads, s.key_heads, s.width, s.queries, s.keys) for s in sites.values()} == {(32, 32, 128, 2048, 2048)}


def test_half_of_its_heads_are_selected_and_cut_out_of_the_shapes(meta, sites):
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(site.heads, generator=generator) for name, site in sites.items()}
    removed = hies.select(scores, ratio=0.5)
    assert sum(map(len, removed.values())) == 512
    small = hies.prune(meta, removed)
    gone = sum(p.numel() for p in meta.parameters()) - sum(p.numel() for p in small.parameters())
    assert gone == 512 * 4 * 128 * 4096  # rows of q, k, v and columns of o
    cost = measure_cost(meta, {"input_ids": torch.zeros(1, 2048, dtype=torch.int64, device="meta")})
    assert cost.dense.parameters - cost.without(removed).parameters == gone


def test_scoring_it_with_checkpoints_fits_a_card_of_24_gigabytes():
    with FakeTensorMode():
        model = tf.LlamaForCausalLM(tf.LlamaConfig(dtype="bfloat16", num_hidden_layers=2)).eval()
        words = torch.zeros(1, 2048, dtype=torch.int64)
        batch = {"input_ids": words, "labels": words}
        kept, again = (scoring_memory(model, batch, checkpoint).peak for checkpoint in (False, True))
    weights = 2 * 6_738_415_616
    layer = 2048 * 4096 * 2  # bytes of the hidden states that stay for a layer
    assert again < kept and weights + again + 30 * layer < CARD


@pytest.mark.slow
def test_one_layer_of_that_width_is_scored_masked_and_cut_for_real():
    torch.manual_seed(0)
    config = tf.LlamaConfig(num_hidden_layers=1, vocab_size=97, intermediate_size=1031, dtype="bfloat16")
    model = tf.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    words = torch.randint(0, 97, (2, 13))
    batch = {"input_ids": words, "labels": words}
    found = hies.collect(model, [batch], checkpoint=True)
    (site,) = found.heads
    assert found.heads[site] == 32 and found.his[site].isfinite().all() and (found.his[site] > 0).any()
    assert ((found.ae[site] > 0) & (found.ae[site] <= 1)).all()
    removed = hies.select(hies.methods.HIES(alpha=0.9)(found), ratio=0.5)
    with torch.no_grad():
        small = hies.prune(model, removed)
        cut = small(words).logits
        with hies.masked(model, removed):
            masked = model(words).logits
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(cut, masked, atol=0.05 * float(masked.abs().max()), rtol=0)
