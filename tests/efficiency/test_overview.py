"""`hies.summary`: its numbers are those of the dense model that was pruned, which it does not have."""

import copy

import pytest
import torch
from tiny_models import make, make_batch, some_heads

import hies
from hies.efficiency.cost import count
from hies.efficiency.measure import cache_bytes


def numbers(model, batch):
    cost = count(model, batch)
    return cost.parameters, cost.flops, cache_bytes(model, batch)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("bert", "all"),
        ("gpt2", "a layer"),
        ("llama_grouped", "some"),
        ("t5", "some"),
        ("vit", "a layer"),
        ("mpnet", "some"),
    ],
)
def test_a_summary_has_the_numbers_of_both_models(name, case):
    model, batch = make(name).eval(), make_batch(name)
    sites = hies.find_sites(model, batch)
    removed = some_heads(sites, case)
    small = hies.prune(model, removed)
    found = hies.summary(small, batch)
    inputs = {key: value for key, value in batch.items() if key != "labels" or name == "t5"}
    assert (found.dense.parameters, found.dense.flops, found.dense.cache_bytes) == numbers(model, inputs)
    assert (found.small.parameters, found.small.flops, found.small.cache_bytes) == numbers(small, inputs)
    assert (found.dense.heads, found.dense.heads - found.small.heads) == (
        sum(site.heads for site in sites.values()),
        sum(map(len, removed.values())),
    )
    assert {site: one.dense_heads - one.heads for site, one in found.sites.items() if one.heads < one.dense_heads} == {
        site: len(heads) for site, heads in removed.items()
    }
    assert {site: one.dense_key_heads for site, one in found.sites.items()} == {
        name: site.key_heads for name, site in sites.items()
    }


def test_a_configuration_that_says_the_heads_that_are_left_is_no_dense_one():
    model = make("llama").eval()
    small = hies.prune(model, {site: [0, 3] for site in hies.find_sites(model, make_batch("llama"))})
    assert small.config.num_attention_heads == 4
    assert hies.summary(small).dense.parameters == model.num_parameters()
    assert small.config.num_attention_heads == 4


def test_a_summary_is_a_table():
    model = make("llama_grouped").eval()
    first, _ = hies.find_sites(model, make_batch("llama_grouped"))
    lines = str(hies.summary(hies.prune(model, {first: [0, 1, 2, 4]}))).splitlines()
    assert lines[0] == "LlamaForCausalLM"
    assert lines[2].split() == ["model.layers.0.self_attn", "2", "6", "1", "2"]
    assert lines[3].split() == ["model.layers.1.self_attn", "6", "6", "2", "2"]
    cells = [line.rsplit(maxsplit=3) for line in lines[6:-1]]
    assert [cell[0] for cell in cells] == ["heads", "parameters", "FLOPs", "key/value cache, bytes"]
    assert cells[0][1:] == ["12", "8", "0.667"] and cells[3][1:] == ["10,240", "7,680", "0.750"]
    assert lines[-1] == "for inputs of the shape 1 x 40"


def grown(name, **settings):
    """The same model of another configuration, before it is built."""
    config = copy.deepcopy(make(name).config)
    for key, value in settings.items():
        setattr(config, key, value)
    return type(make(name))(config).eval()


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (lambda: make("deepseek_v3"), make_batch("deepseek_v3")),  # a router of experts looks at numbers
        (lambda: grown("mixtral", _experts_implementation="grouped_mm"), make_batch("mixtral")),
        (lambda: grown("gpt2", pad_token_id=0), {"input_ids": torch.full((2, 11), 3)}),  # warns of padding
        (lambda: make("bart"), make_batch("bart")),  # makes a mask of its own, and asks if all of it is visible
    ],
)
def test_what_a_forward_asks_of_numbers_a_model_without_weights_answers(model, batch, capsys):
    model = model().eval()
    small = hies.prune(model, {site: [0] for site in hies.find_sites(model, batch)})
    found = hies.summary(small, batch)
    inputs = {key: value for key, value in batch.items() if key != "labels" or model.config.is_encoder_decoder}
    assert (found.dense.parameters, found.dense.flops, found.dense.cache_bytes) == numbers(model, inputs)
    assert "recommend passing" not in "".join(capsys.readouterr())


def test_what_a_forward_computes_with_numbers_is_left_out_of_a_model_without_weights(monkeypatch):
    model, batch = make("bert").eval(), make_batch("bert")
    small = hies.prune(model, {site: [0] for site in hies.find_sites(model, batch)})
    forward = type(model).forward

    def counting(self, input_ids, **options):
        return forward(self, input_ids[:, : int(input_ids.sum()) or None], **options)

    monkeypatch.setattr(type(model), "forward", counting)
    found = hies.summary(small, {"input_ids": batch["input_ids"]})
    assert (found.dense.parameters, found.dense.flops) == (model.num_parameters(), None)
    assert found.small.flops and "?" in str(found)


def test_a_model_that_reads_neither_text_nor_picture_alone_needs_a_batch():
    model = make("t5").eval()
    with pytest.raises(hies.HiesError, match="batch is None; give what the model reads"):
        hies.summary(model)
    for batch in ({"input": torch.ones(1, 2)}, None):
        with pytest.raises(hies.UnsupportedModelError, match="Linear is no model of transformers"):
            hies.summary(torch.nn.Linear(2, 2), batch)
