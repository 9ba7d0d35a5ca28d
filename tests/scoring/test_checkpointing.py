"""Scoring without keeping activations: the same statistics, the model left alone, and memory that really falls."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import transformers as tf
from command_line import composing, declared
from tiny_models import make, make_batch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_layers import GradientCheckpointingLayer

import benchmarks.seven_billion
from benchmarks.seven_billion import scoring_memory
from hies import HiesError, UnsupportedModelError, collect
from hies.evaluation import evaluator as evaluator_module
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.models import Model
from hies.evaluation.networks import build
from hies.heads.attention import handling
from hies.scoring.checkpointing import checkpointed
from hies.scoring.losses import default_loss
from hies.tasks import Digits

NAMES = ["bert", "llama_grouped", "gpt2", "t5", "bart", "vit", "swin", "gemma2", "llava", "modernbert"]
NEEDS = [("his", "ae", "ae:renyi-2"), ("his_token", "ae:min")]


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def batch_of(name):
    batch = make_batch(name, dtype=torch.float64)
    if name == "gemma2":  # its eager attention is float32 inside: a row that sees nothing is NaN in a float64 model
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    return batch


def batches_of(name):
    batch = batch_of(name)
    return [batch, {key: value[1:] for key, value in batch.items()}]


def examples(statistics, names):
    """Every statistic before the mean over examples, {(statistic, site): [examples, heads]}."""
    found = {name: statistics[name] for name in names}
    return {(name, site): values for name, sites in found.items() for site, values in sites.items()}


def assert_same(found, expected, names):
    found, expected = examples(found, names), examples(expected, names)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].shape == values.shape
        torch.testing.assert_close(found[key], values, rtol=0, atol=1e-12, equal_nan=True)


# --- the same statistics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("need", NEEDS, ids=["example", "token"])
@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_those_of_kept_activations(name, need):
    model, calls = make(name, torch.float64), []

    def count(site, call, output):
        if torch.is_grad_enabled():  # not where pictures are told apart
            calls.append(site)
        return output

    with handling(model, count):
        kept = collect(model, batches_of(name), need, default_loss(model))  # given, it is not checked by another pass
        once = len(calls)
        again = collect(model, batches_of(name), need, default_loss(model), checkpoint=True)
    assert_same(again, kept, ("his", *need))
    assert again.heads == kept.heads and again.examples == kept.examples == 5
    assert len(calls) == 3 * once  # every attention ran twice, so the results say something


@pytest.mark.parametrize("need", NEEDS, ids=["example", "token"])
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_layer_that_is_used_several_times_is_counted_once_for_each_use(name, need):
    model = make(name, torch.float64)
    stack = model.bert.encoder.layer if name == "bert" else model.vit.layers
    stack[1] = stack[0]
    stack.append(stack[0])
    kept, again = (collect(model, batches_of(name), need, checkpoint=c) for c in (False, True))
    assert len(kept.heads) == 1
    assert_same(again, kept, ("his", *need))


def test_entropy_alone_needs_no_backward_pass():
    model, batch = make("bert", torch.float64), batch_of("bert")
    kept, again = (collect(model, [batch], ("ae",), checkpoint=c) for c in (False, True))
    assert_same(again, kept, ("ae",))


def test_backward_passes_from_another_thread_see_the_handlers(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    model, batch = make("bert", torch.float64), batch_of("bert")
    kept, grad = collect(model, [batch], NEEDS[1]), torch.autograd.grad
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(
            torch.autograd, "grad", lambda *args, **kw: pool.submit(partial(grad, *args, **kw)).result()
        )
        again = collect(model, [batch], NEEDS[1], checkpoint=True)
    assert_same(again, kept, ("his", *NEEDS[1]))


def test_a_gradient_that_is_not_finite_names_the_site_and_the_example():
    model, batch = make("bert"), make_batch("bert")
    good, bad = torch.tensor([1, 2, 1]), torch.tensor([1, 2, 0])

    def loss(outputs, batch):
        return outputs.logits[:, 0] / batch["labels"]

    with pytest.raises(HiesError, match=r"Example 5 .*'bert\.encoder\.layer\.0\.attention\.self'"):
        collect(model, [{**batch, "labels": good}, {**batch, "labels": bad}], loss=loss, checkpoint=True)


# --- the model is left as it was --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "bart", "swin"])
def test_dropout_stays_off_and_training_flags_stay(name):
    model = make(name, torch.float64)
    evaluated = collect(copy.deepcopy(model).eval(), batches_of(name))
    model.train()
    layers_of(model)[0].eval()
    flags = [module.training for module in model.modules()]
    assert_same(collect(model, batches_of(name), checkpoint=True), evaluated, ("his", "ae"))
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def broken(outputs, batch):
    raise ValueError("a loss of one's own")


@pytest.mark.parametrize("loss", [None, broken])
def test_forwards_are_put_back(loss):
    model, calls = make("bert"), []
    wrapped, plain = layers_of(model)
    forward = wrapped.forward

    def own(*args, **kwargs):  # as libraries that move weights between devices do
        calls.append(args)
        return forward(*args, **kwargs)

    wrapped.forward = own
    try:
        collect(model, [make_batch("bert")], loss=loss, checkpoint=True)
    except ValueError:
        assert loss is broken
    assert len(calls) == (4 if loss is None else 1)  # two examples, of a class each, are looked at before
    assert vars(wrapped)["forward"] is own and "forward" not in vars(plain)


def test_of_nested_layers_the_inner_are_computed_again():
    model = make("swin")
    with checkpointed(model):
        changed = {type(module).__name__ for module in model.modules() if "forward" in vars(module)}
    assert changed == {"SwinLayer"}


def test_a_model_without_such_layers_is_refused():
    model = make("albert")
    with pytest.raises(UnsupportedModelError, match=r"AlbertFor.* no layer .*checkpoint=True .*use false"):
        collect(model, [make_batch("albert")], checkpoint=True)
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- keys and values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama_grouped", "gpt2", "bart"])
def test_no_cache_is_kept(name):
    model, batch, lengths = make(name, torch.float64), batch_of(name), []
    if name == "bart":  # with labels it would make no cache itself
        batch["decoder_input_ids"] = batch["labels"].clamp(min=0)

    def loss(outputs, batch):
        cache = outputs.past_key_values
        lengths.append(0 if cache is None else cache.get_seq_length())
        return outputs.logits[:, -1, 0]

    batch["use_cache"] = True
    kept, again = (collect(model, [batch], loss=loss, checkpoint=c) for c in (False, True))
    assert_same(again, kept, ("his", "ae"))
    assert lengths[1] == 0 and (lengths[0] > 0) == (name != "bart")


def test_keys_and_values_of_earlier_tokens_are_refused():
    model = make("llama").eval()
    batch = {key: value for key, value in make_batch("llama").items() if key != "attention_mask"}
    with torch.no_grad():
        earlier = model(batch["input_ids"]).past_key_values
    with pytest.raises(HiesError, match="filled past_key_values"):
        collect(model, [{**batch, "past_key_values": earlier}], checkpoint=True)


# --- memory -----------------------------------------------------------------------------------------------------------


KINDS = {
    "bert": (tf.BertForSequenceClassification, tf.BertConfig, 35, 5),
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, 48, 6),
}


def deep(kind, layers):
    torch.manual_seed(0)
    model, config, width, heads = KINDS[kind]
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 13, "vocab_size": 53}
    return model._from_config(config(num_hidden_layers=layers, pad_token_id=0, **sizes), dtype=torch.float64)


def hidden_bytes(kind):
    return make_batch(kind)["input_ids"].numel() * KINDS[kind][2] * 8


def bytes_saved(kind, layers, checkpoint):
    """Bytes that autograd saves in all of a scoring pass, by storage, weights and inputs left out."""
    model, batch, storages = deep(kind, layers), make_batch(kind), {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        collect(model, [batch], checkpoint=checkpoint)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), *batch.values())}
    return sum(storage.nbytes() for place, storage in storages.items() if place not in known)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_is_saved_grows_by_one_hidden_state_a_layer(kind):
    kept, again = (
        (bytes_saved(kind, 23, checkpoint) - bytes_saved(kind, 5, checkpoint)) / 18 / hidden_bytes(kind)
        for checkpoint in (False, True)
    )
    assert again == pytest.approx(1, abs=0.05)
    assert kept > 5


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_lives_at_the_peak_grows_by_little_more(kind):
    """Besides the hidden state: the entropies of the layer's heads and what it needs of its gates."""
    batch, hidden = make_batch(kind), hidden_bytes(kind)
    low, high = (scoring_memory(deep(kind, layers), batch, checkpoint=True).peak for layers in (5, 23))
    assert hidden <= (high - low) / 18 < 1.5 * hidden


# --- the estimate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_an_estimate_without_data_is_what_a_real_pass_takes(kind, checkpoint):
    def pass_():
        model, tokens = deep(kind, 5), torch.ones(3, 11, dtype=torch.int64)
        return model, {"input_ids": tokens, "labels": tokens[:, 0] if kind == "bert" else tokens}

    with FakeTensorMode():
        estimated = scoring_memory(*pass_(), checkpoint)
    assert estimated == scoring_memory(*pass_(), checkpoint)
    assert 0 < estimated.saved < estimated.peak


def test_an_estimate_counts_what_autograd_saves():
    batch = make_batch("llama")
    for checkpoint in (False, True):
        found = scoring_memory(deep("llama", 5), batch, checkpoint).saved
        assert found == bytes_saved("llama", 5, checkpoint)


def test_the_table_adds_up(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.seven_billion, "LAYERS", 2)
    benchmarks.seven_billion.main(["--tokens", "64"])
    printed = capsys.readouterr().out
    rows = {line[:28].strip(): line[28:].split() for line in printed.splitlines()[3:]}
    parts = [rows[name] for name in list(rows)[:5]]
    sums = np.array(parts, float).sum(axis=0)
    np.testing.assert_allclose(np.array(rows["sum"], float), sums, atol=0.03)
    assert "1 x 64 tokens" in printed and float(rows["weights"][0]) == pytest.approx(1.33, abs=0.01)


def test_sizes_that_the_model_does_not_have_are_refused(capsys):
    with pytest.raises(SystemExit):
        benchmarks.seven_billion.main(["--tokens", "4097"])
    assert "--tokens=4097 does not work; give 2 to 4096." in capsys.readouterr().err


# --- the option -------------------------------------------------------------------------------------------------------

VIT = {
    "model_type": "vit", "image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 28,
    "num_hidden_layers": 2, "num_attention_heads": 7, "intermediate_size": 31,
}  # fmt: skip


def test_an_evaluator_passes_the_option_on_and_shares_its_statistics(tmp_path, monkeypatch):
    asked = []

    def noted(*args, **kwargs):
        asked.append(kwargs)
        return collect(*args, **kwargs)

    monkeypatch.setattr(evaluator_module, "collect", noted)
    for checkpointing in (True, False):
        model = Model("small", "image", architecture=VIT, checkpointing=checkpointing)
        bench = Evaluator(model, Digits(), None, tmp_path, torch.device("cpu"))
        bench.network = build(model, bench.task).eval()
        bench.statistics(frozenset({"his"}), seed=0, size=7)
    assert asked == [{"checkpoint": True}]  # the second was found in the cache


def test_the_option_is_not_part_of_a_run():
    with composing():
        (plain,), (given,) = (declared(*words, multirun=False).jobs for words in ([], ["model.checkpointing=true"]))
    assert (plain.config.model.checkpointing, given.config.model.checkpointing) == (False, True)
    assert plain.run_id == given.run_id
