"""Folders that transformers 4 wrote of pruned models, made here by its rule, and what they may not say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make, make_batch

import hies
from hies.evaluation.models import Model
from hies.evaluation.networks import load_network

FAMILIES = ["bert", "roberta", "electra", "distilbert", "gpt2"]
SAID = {0: [3, 0], 1: [2]}
SITES = {
    "gpt2": "transformer.h.{}.attn",
    "distilbert": "distilbert.transformer.layer.{}.attention",
}  # else {body}.encoder.layer.{}.attention.self
PROJECTIONS = {  # query, key and value, and output, beside a layer's index
    "gpt2": (["attn.c_attn"], "attn.c_proj"),
    "distilbert": (["attention.q_lin", "attention.k_lin", "attention.v_lin"], "attention.out_lin"),
}
BERT = (["attention.self.query", "attention.self.key", "attention.self.value"], "attention.output.dense")


def site(name, layer):
    return SITES.get(name, name + ".encoder.layer.{}.attention.self").format(layer)


def by_rule(name, tensors, said, fill=()):
    """The tensors that transformers 4 kept: rows of queries, keys and values, columns of outputs; or zeros for them."""
    inputs, output = PROJECTIONS.get(name, BERT)
    for layer, heads in said.items():
        place = site(name, layer).partition(f".{layer}.")[0] + f".{layer}."
        conv = name == "gpt2"  # [inputs, outputs], and three blocks in one matrix
        width = tensors[f"{place}{output}.weight"].shape[1 - conv]
        count = make(name).config.num_attention_heads
        size = width // count
        stay = [i for i in range(width) if i // size not in heads]
        for part in inputs:
            rows = [block * width + i for block in range(3 if conv else 1) for i in stay]
            for key, dim in {f"{place}{part}.weight": 1 if conv else 0, f"{place}{part}.bias": 0}.items():
                tensors[key] = kept(tensors[key], dim, rows, layer in fill)
        key = f"{place}{output}.weight"
        tensors[key] = kept(tensors[key], 0 if conv else 1, stay, layer in fill)
    return tensors


def kept(tensor, dim, indices, fill):
    part = tensor.index_select(dim, torch.tensor(indices))
    return torch.zeros_like(tensor).index_copy(dim, torch.tensor(indices), part) if fill else part


def write(folder, name="bert", said=SAID, fill=(), cut=None, **changes):
    """A folder of a pruned model as transformers 4 wrote it, of weights in float64."""
    model = make(name, torch.float64)
    model.save_pretrained(folder)
    tensors = by_rule(name, load_file(folder / "model.safetensors"), cut or said, fill)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"pruned_heads": said} | changes
    (folder / "config.json").write_text(json.dumps(config))  # layers become strings
    return model.eval()


def difference(folder, dense, name, said=SAID):
    """The largest difference of what was loaded from the dense model with those heads masked."""
    small, batch = hies.load_pruned(folder), make_batch(name)
    removed = {site(name, layer): sorted(heads) for layer, heads in said.items()}
    assert hies.pruned_heads(small) == removed
    with torch.no_grad(), hies.masked(dense, removed):
        return float((small(**batch).logits - dense(**batch).logits).abs().max())


@pytest.mark.parametrize("fill", [(), (0,)], ids=["cut", "one layer filled"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_transformers_4_pruned_computes_what_the_masked_model_does(tmp_path, name, fill):
    dense = write(tmp_path, name, fill=fill)
    assert difference(tmp_path, dense, name) < 1e-12


def test_it_is_saved_in_the_format_of_this_library(tmp_path):
    dense = write(tmp_path)
    hies.save_pruned(hies.load_pruned(tmp_path), tmp_path)
    assert "pruned_heads" not in json.loads((tmp_path / "config.json").read_text())
    assert difference(tmp_path, dense, "bert") < 1e-12


def test_commands_read_such_a_folder_as_a_model(tmp_path):
    dense = write(tmp_path)
    network = load_network(Model(source=str(tmp_path)), str(tmp_path))
    assert sum(map(len, hies.pruned_heads(network).values())) == 3
    assert network.num_parameters() < dense.num_parameters()


def test_layers_that_lose_nothing_may_be_named(tmp_path):
    dense = write(tmp_path, said={**SAID, 1: []})
    assert difference(tmp_path, dense, "bert", {0: [0, 3]}) < 1e-12


def test_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path, monkeypatch):
    dense = write(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save({**tensors, "again": tensors["classifier.bias"]}, tmp_path / "pytorch_model.bin")  # tied
    with pytest.raises(hies.HiesError, match="pickled; if you trust them, run in the folder: python -c") as caught:
        hies.load_pruned(tmp_path)
    command = str(caught.value).partition('python -c "')[2].rstrip('".')
    monkeypatch.chdir(tmp_path)
    exec(command)  # as it was printed
    converted = load_file(tmp_path / "model.safetensors")
    assert converted.keys() == {*tensors, "again"}
    save_file({key: converted[key] for key in tensors}, tmp_path / "model.safetensors")
    assert difference(tmp_path, dense, "bert") < 1e-12


HEADS = {
    "a head that is not there": ({0: [5]}, "names head 5 of layer 0, which has the heads 0 to 4"),
    "a negative head": ({0: [-1]}, "names head -1 of layer 0"),
    "a head twice": ({0: [1, 1]}, "names a head of layer 0 twice"),
    "all heads": ({1: [0, 1, 2, 3, 4]}, "names all 5 heads of layer 1"),
    "a layer that is not there": ({2: [0]}, "names layer 2, where BertForSequenceClassification has no attention"),
    "no layer": ({"first": [0]}, "and not a list of heads for the number of a layer"),
    "a negative layer": ({"-1": [0]}, "and not a list of heads for the number of a layer"),
    "no list": ({0: 3}, "has 3 for '0'"),
    "fractions": ({0: [0.5]}, "has [0.5] for '0'"),
    "no mapping": ([0, 1], "is [0, 1], and not the heads of each layer"),
}


@pytest.mark.parametrize(("said", "message"), HEADS.values(), ids=HEADS)
def test_heads_that_the_model_does_not_have_are_refused_by_name(tmp_path, said, message):
    write(tmp_path, said=said, cut=SAID)
    with pytest.raises(hies.HiesError) as caught:
        hies.load_pruned(tmp_path)
    assert message in str(caught.value)


def test_heads_of_full_size_that_are_not_zero_are_refused(tmp_path):
    write(tmp_path, said=SAID, cut={1: [2]})
    with pytest.raises(hies.HiesError, match=r"head 0 of bert.*0.attention.self, but its weights are there, and not"):
        hies.load_pruned(tmp_path)


@pytest.mark.parametrize("zero", ["value", "output"])
def test_a_head_of_full_size_may_go_where_one_of_its_matrices_is_zero(tmp_path, zero):
    dense = write(tmp_path, cut={1: [2]}, fill=(1,))
    attention = dense.bert.encoder.layer[0].attention
    with torch.no_grad():
        for head in (0, 3):
            rows = slice(7 * head, 7 * head + 7)
            if zero == "value":
                attention.self.value.weight[rows], attention.self.value.bias[rows] = 0, 0
            else:
                attention.output.dense.weight[:, rows] = 0
    dense.save_pretrained(tmp_path / "dense")
    tensors = load_file(tmp_path / "dense" / "model.safetensors")
    save_file(by_rule("bert", tensors, {1: [2]}, (1,)), tmp_path / "model.safetensors")
    assert difference(tmp_path, dense, "bert") < 1e-12


def test_a_layer_of_which_only_some_matrices_were_cut_is_refused(tmp_path):
    dense = write(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "bert.encoder.layer.1.attention.self.key.weight"
    save_file({**tensors, name: dense.get_parameter(name).detach()}, tmp_path / "model.safetensors")
    with pytest.raises(hies.HiesError, match=r"1.attention.self.key.weight has rows .* for all heads, and .* for some"):
        hies.load_pruned(tmp_path)


def test_matrices_of_another_number_of_heads_are_refused(tmp_path):
    write(tmp_path, cut={0: [0, 3], 1: [2, 4]})
    with pytest.raises(hies.HiesError, match="its weights and its pruned_heads disagree: mismatched keys"):
        hies.load_pruned(tmp_path)


OTHERS = {
    "several modules": ({"is_decoder": True, "add_cross_attention": True}, "has several attention modules"),
    "norms that transformers does not have": ({"layer_norm_type": "no_norm"}, "its layer_norm_type is 'no_norm'"),
    "no class": ({"architectures": None}, "names no class under architectures"),
    "an unknown class": ({"architectures": ["Nothing"]}, "Nothing is no model class of transformers"),
    "another class": ({"architectures": ["GPT2LMHeadModel"]}, "is a bert by its config.json, but said to be a GPT2LM"),
    "no heads": ({"pruned_heads": {}}, "has no pruned_heads.json"),
}


@pytest.mark.parametrize(("changes", "message"), OTHERS.values(), ids=OTHERS)
def test_what_else_is_refused(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(hies.HiesError) as caught:
        hies.load_pruned(tmp_path)
    assert message in str(caught.value)
