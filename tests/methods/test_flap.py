"""FLAP's fluctuation score against numpy on what the output projections really read."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from plain_scoring import examples_of_different_length, in_batches, real_tokens
from tiny_models import assert_same_state, make, make_batch, output_projection, state_of

from hies import HiesError, Statistics, UnsupportedModelError, collect, masked, select
from hies.methods.flap.flap import FLAP
from hies.methods.flap.fluctuation import weighted_fluctuation

NEED = ("fluctuation",)


@torch.no_grad()
def inputs_of_projections(model, name, batches, sites):
    """What each site's output projection reads at tokens that are no padding, {site: [tokens, heads * width]}."""
    found, real = defaultdict(list), {}

    def note(module, inputs, site):
        found[site].append(inputs[0].reshape(-1, inputs[0].shape[-1])[real[site].reshape(-1)].double().numpy())

    handles = [
        output_projection(model, name, site).register_forward_pre_hook(lambda m, i, site=site: note(m, i, site))
        for site in sites
    ]
    for batch in batches:
        real |= {site: real_tokens(name, site, batch) for site in sites}
        model(**batch)
    for handle in handles:
        handle.remove()
    return {site: np.concatenate(parts) for site, parts in found.items()}


def plain_fluctuation(inputs, weights, heads):
    """sum over a head's channels of the sample variance times the squared norm of the column, by loops, [heads]."""
    width = inputs.shape[1] // heads
    scores = np.zeros(heads)
    for head in range(heads):
        for channel in range(head * width, (head + 1) * width):
            values = inputs[:, channel]
            variance = sum((value - values.mean()) ** 2 for value in values) / (len(values) - 1)
            scores[head] += variance * sum(weight**2 for weight in weights[:, channel])
    return scores


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("bert", "right"), ("llama_grouped", "left"), ("t5", "right")),
        *(("vit", None), ("albert", "right"), ("gpt2", "right")),
    ],
)
def test_it_is_the_weighted_variance_of_what_the_projection_reads(name, side):
    model, batch = make(name, torch.float64).eval(), make_batch(name, side, torch.float64)
    before, statistics = state_of(model), collect(model, [batch], NEED)
    assert_same_state(model, before)
    inputs = inputs_of_projections(model, name, [batch], list(statistics.heads))
    for site, found in statistics["fluctuation"].items():
        weights = output_projection(model, name, site).weight.detach().numpy()
        weights = weights.T if name == "gpt2" else weights
        expected = plain_fluctuation(inputs[site], weights, statistics.heads[site])
        assert found.dtype == torch.float64 and expected.std() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-6)  # some models compute in float32
        scores = (expected - expected.mean()) / expected.std()
        np.testing.assert_allclose(FLAP()(statistics)[site], scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(FLAP(standardize=False)(statistics)[site], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_it_does_not_depend_on_the_batches(name):
    model, examples = make(name, torch.float64), examples_of_different_length(name, 17)
    alone, some, together = (collect(model, in_batches(examples, size), NEED) for size in (1, 7, 17))
    for site, expected in alone["fluctuation"].items():
        for other in (some, together):
            torch.testing.assert_close(other["fluctuation"][site], expected, rtol=1e-5, atol=0)


def test_it_takes_no_labels_and_a_loss_of_ones_own_changes_nothing():
    model, batch = make("bert"), make_batch("bert")
    unlabelled = {key: value for key, value in batch.items() if key != "labels"}
    found = collect(model, [unlabelled], NEED)
    for other in (collect(model, [batch], ("his", *NEED)), collect(model, [unlabelled], NEED, loss=lambda *_: None)):
        assert all(torch.equal(other["fluctuation"][site], values) for site, values in found["fluctuation"].items())
    assert "his" not in found


def test_large_means_cost_no_digits():
    model, batch = make("bert"), make_batch("bert")
    exact = collect(model, [batch], NEED)["fluctuation"]
    for layer in model.bert.encoder.layer:
        layer.attention.self.value.bias.data += 1e4  # attention rows sum to one, so that every output shifts by it
    shifted = collect(model.double(), [batch], NEED)["fluctuation"]
    first = next(iter(exact))  # later layers read other hidden states
    torch.testing.assert_close(shifted[first], exact[first], rtol=1e-3, atol=0)


def test_a_masked_head_has_none_and_goes_first():
    model, batch = make("llama_grouped"), make_batch("llama_grouped")
    site = "model.layers.1.self_attn"
    with masked(model, {site: [0, 4]}):
        statistics = collect(model, [batch], NEED)
    assert (statistics["fluctuation"][site] == 0).tolist() == [True, False, False, False, True, False]
    assert select({site: FLAP()(statistics)[site]}, 1 / 3)[site] == [0, 4]


def test_by_hand():
    variance = torch.tensor([[1.0, 2.0], [0.0, 5.0], [3.0, 0.0]])
    columns = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[7.0, 7.0], [1.0, 1.0]], [[0.0, 2.0], [9.0, 9.0]]])
    found = weighted_fluctuation(variance, columns)
    assert found.tolist() == [1 * 5 + 2 * 9, 5 * 2, 3 * 4]
    statistics = Statistics({"a": 3, "b": 2}, 1, {"fluctuation": {"a": found, "b": torch.tensor([0.1, 0.1])}})
    deviation = math.sqrt((8**2 + 5**2 + 3**2) / 3)  # the mean is 15
    scores = FLAP()(statistics)
    torch.testing.assert_close(scores["a"].double(), torch.tensor([8, -5, -3]).double() / deviation)
    assert scores["b"].tolist() == [0, 0]  # heads that are alike are their layer's mean


def test_heads_of_different_layers_are_compared_by_their_place_in_the_layer():
    values = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([100.0, 200.0, 310.0])}
    statistics = Statistics({"a": 3, "b": 3}, 1, {"fluctuation": values})
    assert select(FLAP()(statistics), 1 / 3) == {"a": [0], "b": [0]}
    assert select(FLAP(standardize=False)(statistics), 1 / 3) == {"a": [0, 1]}


def test_what_has_no_variance_is_refused():
    batch = {"input_ids": torch.tensor([[3]]), "attention_mask": torch.tensor([[1]])}
    with pytest.raises(HiesError, match="'flap' gave nan for head 0 of site 'bert"):
        FLAP()(collect(make("bert"), [batch], NEED))
    model, batch = make("longformer"), make_batch("longformer")
    with pytest.raises(UnsupportedModelError, match="adds up the output of a head in parts"):
        collect(model, [batch], NEED)
