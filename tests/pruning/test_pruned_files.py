"""Pruned models on disk: what is saved is loaded, and a folder that does not hold together is refused by a sentence."""

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers as tf
from hostile_folders import seal
from safetensors.torch import load_file, save_file
from tiny_models import make, make_batch, some_heads
from transformers import LlamaForCausalLM

import hies
from hies.pruning.folder import RECORD
from hies.pruning.limits import check_config

DECODERS = ["llama", "llama_grouped"]


def pruned(name="bert", case="some"):
    model = make(name).eval()
    return hies.prune(model, some_heads(hies.find_sites(model, make_batch(name)), case))


def logits(model, name):
    with torch.no_grad():
        return model(**make_batch(name)).logits


@pytest.fixture
def saved(tmp_path):
    hies.save_pruned(pruned(), tmp_path)
    return tmp_path


def test_a_model_with_adapters_does_not_take_the_place_of_one_that_was_saved(saved):
    small = hies.load_pruned(saved)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    small.add_adapter(peft.LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(hies.UnsupportedModelError, match="has adapters"):
        hies.save_pruned(small, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_an_option_that_changes_the_configuration_is_refused(saved):
    with pytest.raises(hies.HiesError, match=r"cannot take one of the options num_labels: .*num_labels"):
        hies.load_pruned(saved, num_labels=5)


@pytest.mark.parametrize("case", ["some", "a layer", "all"])
def test_what_is_saved_is_loaded(tmp_path, case):
    small = pruned("bert", case)
    hies.save_pruned(small, tmp_path)
    back = hies.load_pruned(tmp_path)
    assert type(back) is type(small)
    assert not back.training
    assert hies.pruned_heads(back) == hies.pruned_heads(small)
    assert {n: p.shape for n, p in back.named_parameters()} == {n: p.shape for n, p in small.named_parameters()}
    assert torch.equal(logits(back, "bert"), logits(small, "bert"))


def test_a_loaded_model_can_be_saved_again(saved, tmp_path):
    again = tmp_path / "again"
    hies.save_pruned(hies.load_pruned(saved), again)
    assert torch.equal(logits(hies.load_pruned(again), "bert"), logits(hies.load_pruned(saved), "bert"))


def test_a_loaded_model_has_the_type_of_numbers_asked_for(saved):
    assert hies.load_pruned(saved, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_configuration_names_no_attention_function_of_ours(tmp_path):
    hies.save_pruned(pruned("llama_grouped", "a layer"), tmp_path)
    assert "hies" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(("name", "gone"), [("llama", [0, 3]), ("llama_grouped", [3, 4, 5]), ("llama_grouped", [0, 4])])
def test_the_same_number_in_every_layer_loads_without_this_library(tmp_path, name, gone):
    model = make(name).eval()
    small = hies.prune(model, dict.fromkeys(hies.find_sites(model, make_batch(name)), gone))
    hies.save_pruned(small, tmp_path)
    plain = LlamaForCausalLM.from_pretrained(tmp_path)
    assert plain.config.num_attention_heads == 6 - len(gone)
    for loaded in (plain, hies.load_pruned(tmp_path)):
        assert torch.equal(logits(loaded, name), logits(small, name))
    assert hies.pruned_heads(hies.load_pruned(tmp_path)) == hies.pruned_heads(small)


def test_a_number_of_heads_that_the_configuration_does_not_take_keeps_the_dense_one(tmp_path):
    model = make("llama").eval()
    small = hies.prune(model, {site: [2] for site in hies.find_sites(model, make_batch("llama"))})  # 5 heads, 48 units
    hies.save_pruned(small, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_attention_heads"] == 6
    assert torch.equal(logits(hies.load_pruned(tmp_path), "llama"), logits(small, "llama"))


def test_one_pruned_layer_of_several_keeps_the_dense_configuration(tmp_path):
    model = make("llama_grouped").eval()
    first = next(iter(hies.find_sites(model, make_batch("llama_grouped"))))
    hies.save_pruned(hies.prune(model, {first: [3, 4, 5]}), tmp_path)  # 3 heads of 48 units would be a valid number
    assert json.loads((tmp_path / "config.json").read_text())["num_attention_heads"] == 6


def test_different_numbers_in_the_layers_keep_the_dense_configuration(tmp_path):
    model = make("llama").eval()
    first = next(iter(hies.find_sites(model, make_batch("llama"))))
    hies.save_pruned(hies.prune(model, {first: [0]}), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_attention_heads"] == 6


def test_a_dense_model_is_not_saved_as_a_pruned_one(tmp_path):
    with pytest.raises(hies.HiesError, match="has all its heads"):
        hies.save_pruned(make("bert"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_record_is_refused(saved):
    (saved / RECORD).unlink()
    with pytest.raises(hies.HiesError, match=f"has no {RECORD}"):
        hies.load_pruned(saved)


def test_a_name_that_is_nowhere_is_refused():
    with pytest.raises(hies.HiesError, match=f"has no {RECORD}"):
        hies.load_pruned("nobody/nothing")


def test_weights_are_never_unpickled(saved):
    weights = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    torch.save(weights, saved / "pytorch_model.bin")
    with pytest.raises(hies.HiesError, match="safetensors"):
        hies.load_pruned(saved)


SITE = "bert.encoder.layer.0.attention.self"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"removed": {SITE: [0]}}, "disagree"),
        ({"removed": {}}, "disagree"),
        ({"removed": {SITE: [99]}}, "heads 0 to 4"),
        ({"removed": {SITE: [-1]}}, "heads 0 to 4"),
        ({"removed": {SITE: ["x"]}}, "cannot be read"),
        ({"removed": {"bert.encoder": [0]}}, "naming convention"),
        ({"removed": {"../../etc": [0]}}, "has no site"),
        ({"removed": [1]}, "cannot be read"),
        ({"removed": None}, "cannot be read"),
        ({"format": 2}, "format is 2"),
        ({"model_class": "os.system"}, "no model class"),
        ({"model_class": "GPT2LMHeadModel"}, "is a bert by its config.json"),
        ({"config": {"num_attention_heads": "many"}}, "no number"),
        ({"config": {"num_attention_heads": 7}}, "[dD]isagree|cannot"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(saved, changes, says):
    seal(saved, **changes)
    with pytest.raises(hies.HiesError, match=says):
        hies.load_pruned(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', '{"format": 1}', "\x00\xff"])
def test_a_broken_record_is_refused(saved, text):
    (saved / RECORD).write_text(text)
    with pytest.raises(hies.HiesError, match="cannot be read"):
        hies.load_pruned(saved)


def test_a_tensor_that_is_missing_too_much_or_of_another_shape_is_refused(saved):
    file = saved / "model.safetensors"
    weights = load_file(file)
    name = f"{SITE}.query.weight"
    for broken in (
        {n: t for n, t in weights.items() if n != name},
        {**weights, "extra": torch.zeros(3)},
        {**weights, name: weights[name][:-7].contiguous()},
    ):
        save_file(broken, file, {"format": "pt"})
        seal(saved)
        with pytest.raises(hies.HiesError, match="disagree"):
            hies.load_pruned(saved)


def test_a_truncated_file_of_weights_is_refused(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(hies.HiesError, match=r"model\.safetensors is no whole safetensors file"):
        hies.load_pruned(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_was_changed_is_refused(saved, name):
    content = (saved / name).read_bytes()
    changed = (
        content.replace(b'"hidden_act": "gelu"', b'"hidden_act": "relu"')
        if name == "config.json"
        else content[:-1] + b"\x3f"
    )
    assert changed != content
    (saved / name).write_bytes(changed)
    with pytest.raises(hies.HiesError, match=f"{name} in .* is not what {RECORD} says"):
        hies.load_pruned(saved)


def test_an_interrupted_save_leaves_the_model_that_was_there(saved, monkeypatch):
    small, before = pruned("bert", "a layer"), logits(hies.load_pruned(saved), "bert")
    (saved / "notes.txt").write_text("mine")
    save = type(small).save_pretrained

    def half(model, folder, **options):
        save(model, folder, **options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(small), "save_pretrained", half)
        with pytest.raises(hies.HiesError, match="No space left on device"):
            hies.save_pruned(small, saved)
    assert torch.equal(logits(hies.load_pruned(saved), "bert"), before)
    hies.save_pruned(small, saved)
    assert torch.equal(logits(hies.load_pruned(saved), "bert"), logits(small, "bert"))
    assert (saved / "notes.txt").read_text() == "mine"
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]


def test_shards_of_an_earlier_model_do_not_stay(saved):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (saved / name).write_bytes((saved / "model.safetensors").read_bytes())
    hies.save_pruned(pruned("bert", "all"), saved)
    assert [path.name for path in saved.glob("*.safetensors*")] == ["model.safetensors"]


def test_a_place_where_no_folder_can_be_is_refused(saved):
    with pytest.raises(hies.HiesError, match="cannot be written"):
        hies.save_pruned(pruned(), saved / "config.json")


def test_a_record_that_was_edited_is_refused(saved):
    record = json.loads((saved / RECORD).read_text())
    site = next(iter(record["removed"]))
    record["removed"][site] = [(head + 1) % 5 for head in record["removed"][site]]
    (saved / RECORD).write_text(json.dumps(record))
    with pytest.raises(hies.HiesError, match="changed after it was written"):
        hies.load_pruned(saved)


@pytest.mark.parametrize("option", ["config", "trust_remote_code", "use_safetensors", "output_loading_info"])
def test_what_load_pruned_decides_cannot_be_given(saved, option):
    with pytest.raises(hies.HiesError, match=option):
        hies.load_pruned(saved, **{option: True})


@pytest.mark.parametrize("text", ["", "{", '{"model_type": "nothing"}'])
def test_a_broken_configuration_is_refused(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(hies.HiesError, match=r"config\.json"):
        hies.load_pruned(saved)


@pytest.mark.parametrize("name", ["MyModel", "BertForSequenceClassification"])
def test_a_custom_class_is_refused_before_anything_is_written(tmp_path, name):
    small = pruned()
    small.__class__ = type(name, (type(small),), {})
    with pytest.raises(hies.HiesError, match=f"{name} .* only those are saved"):
        hies.save_pruned(small, tmp_path / "new")
    assert not Path(tmp_path / "new").exists()


def with_a_layer_more(model):
    model.bert.encoder.layer.append(copy.deepcopy(model.bert.encoder.layer[0]))


CHANGES = {
    r"classifier\.bias is \(7,\), .* builds \(3,\); .*config\.num_labels": lambda model: setattr(
        model, "classifier", torch.nn.Linear(40, 7)
    ),
    r"builds no bert\.encoder\.layer\.2\.attention": with_a_layer_more,
    r"builds no gate\.bias": lambda model: model.add_module("gate", torch.nn.Linear(2, 2)),
    r"has no classifier\.bias, which": lambda model: setattr(model.classifier, "bias", None),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("says", CHANGES)
def test_a_model_that_its_configuration_does_not_build_is_refused_before_anything_is_written(tmp_path, says, first):
    model = make("bert").eval()
    if first:
        CHANGES[says](model)
    small = hies.prune(model, {f"bert.encoder.layer.{len(model.bert.encoder.layer) - 1}.attention.self": [1]})
    if not first:
        CHANGES[says](small)
    before = torch.get_rng_state()
    with pytest.raises(hies.HiesError, match=says):
        hies.save_pruned(small, tmp_path / "new")
    assert not (tmp_path / "new").exists() and torch.equal(torch.get_rng_state(), before)


def test_a_classifier_of_another_size_is_saved_once_the_configuration_says_so(tmp_path):
    small, words = pruned(), make_batch("bert")["input_ids"]
    small.classifier = torch.nn.Linear(small.config.hidden_size, 7)
    small.config.num_labels = 7
    hies.save_pruned(small, tmp_path)
    assert torch.equal(hies.load_pruned(tmp_path)(words).logits, small(words).logits)


@pytest.mark.parametrize("kind", ["gpt2", "gemma3n"])
def test_tables_of_an_ordinary_vocabulary_are_no_larger_model(kind, tmp_path):
    if kind == "gpt2":  # the embedding, which the head shares, is nearly all of it
        model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=40_009, n_embd=40, n_layer=1, n_head=5, n_positions=13))
        removed = {"transformer.h.0.attn": [3]}
    else:
        config = tf.Gemma3nTextConfig(
            vocab_size=53, vocab_size_per_layer_input=2003, hidden_size=32, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, hidden_size_per_layer_input=8, laurel_rank=4,
            num_kv_shared_layers=0, activation_sparsity_pattern=[0.0], layer_types=["full_attention"],
        )  # fmt: skip
        model, removed = tf.Gemma3nForCausalLM(config), {"model.layers.0.self_attn": [0]}
    small, tokens = hies.prune(model.eval(), removed), torch.arange(1, 8)[None]
    hies.save_pruned(small, tmp_path)
    assert torch.equal(hies.load_pruned(tmp_path)(tokens).logits, small(tokens).logits)


class OneTable(dict):
    largest = 262_144


def test_every_default_configuration_has_a_place_in_weights_of_its_vocabulary():
    for name in tf.CONFIG_MAPPING:
        try:
            config = tf.CONFIG_MAPPING[name]().to_dict()
        except Exception:  # needs parts that its class does not make itself
            continue
        check_config(config, OneTable())
