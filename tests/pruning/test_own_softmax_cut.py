"""Heads cut out of modules that compute their softmax by themselves: what is rehearsed, and what is refused."""

import copy

import checks
import pytest
import torch
from tiny_models import make, some_heads
from torch import nn

import hies
from hies.efficiency.cost import cost_model, count


def sites_and_batch(name, model):
    batch = checks.inputs_of(name, dtype=model.dtype)
    return hies.find_sites(model, batch), batch


def of_each(sites, heads):
    return {site: list(heads) for site in sites}


@pytest.mark.parametrize("name", ["blip", "deberta", "falcon_alibi", "mpnet", "swinv2"])
def test_what_was_pruned_is_pruned_again(name):
    model = make(name).eval()
    sites, batch = sites_and_batch(name, model)
    small = hies.prune(hies.prune(model, of_each(sites, [1])), of_each(sites, [0]))
    assert hies.pruned_heads(small) == of_each(sites, [0, 1])
    assert hies.find_sites(small, batch).keys() == {site for site, found in sites.items() if found.heads > 2}
    with hies.masked(model, of_each(sites, [0, 1])):
        torch.testing.assert_close(checks.run(small, batch), checks.run(model, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bloom", "falcon_alibi", "mpt"])
def test_a_copy_generates_what_the_masked_model_does(name):
    model, prompt = make(name).eval(), torch.tensor([[5, 9, 7], [11, 13, 17]])
    removed = some_heads(hies.find_sites(model, {"input_ids": prompt}), "a layer")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    small = copy.deepcopy(hies.prune(model, removed))
    with hies.masked(model, removed):
        expected = model.generate(prompt, **options)
    assert torch.equal(small.generate(prompt, **options), expected)


def test_groups_of_different_sizes_are_refused():
    model = make("falcon_grouped").eval()
    sites, _ = sites_and_batch("falcon_grouped", model)
    assert {site.key_heads for site in sites.values()} == {2}
    with pytest.raises(hies.HiesError, match=r"shares a key/value head .* remove whole groups"):
        hies.prune(model, of_each(sites, [0]))


@pytest.mark.parametrize("name", ["bloom", "deberta-v2", "falcon_grouped"])
def test_the_cost_of_what_is_left_is_counted(name):
    model = make(name).eval()
    sites, batch = sites_and_batch(name, model)
    removed = of_each(sites, [0, 1, 2])
    left = count(hies.prune(model, removed), batch)
    assert cost_model(model, batch).without(removed).parameters == left.parameters


class Attention(nn.Module):
    """Three heads of five, a query, a key and a value for each head in turn, which the name does not say."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.qkv, self.proj = 3, nn.Linear(15, 45), nn.Linear(15, 15)

    def split(self, hidden):
        return self.qkv(hidden).unflatten(-1, (self.num_heads, 3, 5)).permute(3, 0, 2, 1, 4)

    def forward(self, hidden):
        query, key, value = self.split(hidden)
        return self.proj(((query @ key.mT).softmax(-1) @ value).transpose(1, 2).flatten(2))


class Rigid(Attention):
    def split(self, hidden):
        return self.qkv(hidden).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4)


class Model(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.layer = attention()

    def forward(self, hidden):
        return self.layer(hidden)


@pytest.mark.parametrize(("attention", "why"), [(Attention, "computes something else"), (Rigid, "fewer heads")])
def test_a_cut_is_rehearsed(attention, why):
    torch.manual_seed(0)
    model, batch = Model(attention).eval(), {"hidden": torch.randn(2, 7, 15)}
    with pytest.raises(hies.UnsupportedModelError, match=r"call hies.find_sites\(model, batch\)"):
        hies.prune(model, {"layer": [1]})
    before = model(**batch)
    assert why in hies.prunable(model, batch).refused["layer"]
    with pytest.raises(hies.UnsupportedModelError, match=why):
        hies.prune(model, {"layer": [1]})
    assert torch.equal(model(**batch), before)


def test_a_module_that_took_the_place_of_the_one_that_is_configured_is_not_cut():
    model, batch = make("big_bird_sparse").eval(), checks.inputs_of("big_bird", dtype=torch.float32)  # short texts
    found = hies.prunable(model, batch)
    assert not found and "its configuration builds BigBirdBlockSparseAttention" in next(iter(found.refused.values()))
    sites = hies.find_sites(model, batch)
    with pytest.raises(hies.UnsupportedModelError, match="its configuration builds BigBirdBlockSparseAttention"):
        hies.prune(model, of_each(sites, [0]))
    model.config.attention_type = "original_full"
    assert hies.pruned_heads(hies.prune(model, of_each(sites, [0]))) == of_each(sites, [0])
