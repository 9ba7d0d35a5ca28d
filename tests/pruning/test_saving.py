"""Saving over a model: writers that are killed, that meet each other or a reader, a full disk; and the model card."""

import contextlib
import os
import pickle
import resource
import shutil
import sys
import time

import pytest
import torch
import transformers as tf
from checks import check_saved
from hostile_folders import WEIGHTS, adapters, save_as_before, seal
from safetensors.torch import load_file, save_file
from tiny_models import make, make_batch, some_heads
from transformers.models.llama.modeling_llama import LlamaAttention

import hies
from hies.pruning.card import CARD
from hies.storage import SUMS, check_checksums, locking, write_checksums


def pruned(name="bert", case="some", gone=None):
    model = make(name).eval()
    sites = hies.find_sites(model, make_batch(name))
    return hies.prune(model, dict.fromkeys(sites, gone) if gone else some_heads(sites, case))


def same(model, other):
    state, expected = model.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)


def start(work):
    """Does `work` in a process of its own; returns its number and where its result can be read."""
    reading, writing = os.pipe()
    if not (process := os.fork()):
        with contextlib.suppress(BaseException):
            os.write(writing, pickle.dumps(work()))
        os._exit(0)
    os.close(writing)
    return process, reading


def result(started):
    """What the process returned; None for one that ended before."""
    process, reading = started
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(process, 0)
    return pickle.loads(text) if text else None


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- killed -----------------------------------------------------------------------------------------------------------


def killed_at(step, model, folder):
    """Ends this process before it does a thing to the folder for the step-th time."""
    left = iter(range(step))

    def watch(event, arguments):
        touches = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")
        if touches and str(arguments[0]).startswith(str(folder)) and next(left, None) is None:
            os._exit(0)

    sys.addaudithook(watch)
    hies.save_pruned(model, folder)
    return "saved"


def test_a_kill_at_any_step_leaves_one_of_the_two_models(tmp_path):
    old, new = pruned("llama_grouped", "some"), pruned("llama_grouped", "a layer")
    hies.save_pruned(old, tmp_path / "old")
    before, found, step = names(tmp_path / "old"), [], 0
    while True:
        folder = shutil.copytree(tmp_path / "old", tmp_path / str(step))
        (folder / "model-00001-of-00002.safetensors").write_text("of an earlier one")
        finished = result(start(lambda folder=folder, step=step: killed_at(step, new, folder)))
        model = hies.load_pruned(folder)
        assert same(model, old) != same(model, new)
        found.append(same(model, new))
        assert not [name for name in names(folder) if name.startswith(".")]
        if found[-1]:
            assert names(folder) == before  # for plain `from_pretrained`, too
        if finished:
            break
        step += 1
    assert found == sorted(found)  # from a certain step on it is the new one
    assert found.count(False) > 5 and found.count(True) > 4


def test_a_reader_that_may_not_write_finds_the_new_model_among_files_of_both(tmp_path, monkeypatch):
    old, new = pruned("bert", "some"), pruned("bert", "a layer")
    hies.save_pruned(old, tmp_path / "folder")
    hies.save_pruned(new, tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "folder" / ".saved")
    (tmp_path / "folder" / ".saved" / WEIGHTS).replace(tmp_path / "folder" / WEIGHTS)  # the first move is done
    monkeypatch.setattr("hies.pruning.files.finish_interrupted", lambda folder: None)
    assert same(hies.load_pruned(tmp_path / "folder"), new)


def test_loading_ends_what_a_killed_writer_began(tmp_path):
    small = pruned()
    hies.save_pruned(small, tmp_path)
    (tmp_path / ".saving-17").mkdir()
    assert same(hies.load_pruned(tmp_path), small)
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    (tmp_path / ".saving-17").mkdir()
    with locking(tmp_path):  # somebody is at work in it
        hies.load_pruned(tmp_path)
    assert (tmp_path / ".saving-17").exists()


# --- side by side -----------------------------------------------------------------------------------------------------


def test_two_writers_and_a_reader(tmp_path):
    one, two = pruned("llama_grouped", "some"), pruned("llama_grouped", "a layer")
    hies.save_pruned(one, tmp_path)

    def save(model):
        for _ in range(12):
            hies.save_pruned(model, tmp_path)
        return "saved"

    writers, loads = [start(lambda model=model: save(model)) for model in (one, two)], 0
    until = time.monotonic() + 60
    while any(os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for process, _ in writers):
        model = hies.load_pruned(tmp_path)
        assert same(model, one) != same(model, two)
        assert time.monotonic() < until
        loads += 1
    assert [result(writer) for writer in writers] == ["saved", "saved"]
    assert loads > 3
    assert not [name for name in names(tmp_path) if name.startswith(".")]


# --- disks and users --------------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_sentence_and_leaves_the_model_that_was_there(tmp_path):
    small = pruned()
    hies.save_pruned(small, tmp_path)

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # safetensors has an error of its own for this
        with pytest.raises(hies.HiesError) as error:
            hies.save_pruned(pruned("bert", "a layer"), tmp_path)
        return str(error.value)

    said = result(start(save))
    assert said == f"{tmp_path} cannot be written (File too large); what it held before is left."
    assert same(hies.load_pruned(tmp_path), small)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_may_be_read_by_whom_the_umask_lets(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        hies.save_pruned(pruned(), tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


# --- what is loaded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chinese_clip_text", "youtu"])
def test_rows_for_padding_are_those_that_were_saved(name, tmp_path):
    check_saved(name, tmp_path)


@pytest.mark.parametrize(("name", "gone"), [("bert", None), ("llama_grouped", None), ("llama_grouped", [0, 1, 2])])
def test_folders_of_before_records_named_files_load(tmp_path, name, gone):
    small = pruned(name, gone=gone)
    save_as_before(small, tmp_path)
    assert same(hies.load_pruned(tmp_path), small)
    (tmp_path / SUMS).write_text("")
    with pytest.raises(hies.HiesError, match=r"model\.safetensors.*SHA256SUMS"):
        hies.load_pruned(tmp_path)
    (tmp_path / SUMS).unlink()
    assert same(hies.load_pruned(tmp_path), small)


def test_adapters_beside_a_model_are_neither_read_nor_removed(tmp_path):
    small = pruned("bert", "a layer")
    hies.save_pruned(small, tmp_path / "other")
    hies.save_pruned(small, tmp_path / "model")
    adapters(tmp_path / "model", tmp_path / "other")
    back = hies.load_pruned(tmp_path / "model")
    assert same(back, small) and not getattr(back, "_hf_peft_config_loaded", False)
    hies.save_pruned(small, tmp_path / "model")
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()


def test_a_tensor_that_transformers_would_draw_at_random_is_missed(tmp_path, monkeypatch):
    small = pruned()
    hies.save_pruned(small, tmp_path)
    monkeypatch.setattr(type(small), "_keys_to_ignore_on_load_missing", [r"pooler"])
    weights = {
        name: tensor for name, tensor in load_file(tmp_path / WEIGHTS).items() if "pooler.dense.bias" not in name
    }
    save_file(weights, tmp_path / WEIGHTS, {"format": "pt"})
    seal(tmp_path)
    with pytest.raises(hies.HiesError, match=r"missing keys bert\.pooler\.dense\.bias"):
        hies.load_pruned(tmp_path)


def test_a_folder_that_is_never_still_is_refused_where_nothing_can_be_locked(tmp_path, monkeypatch):
    hies.save_pruned(pruned(), tmp_path)
    monkeypatch.setattr("hies.pruning.files.locking", lambda *_, **__: contextlib.nullcontext(False))
    monkeypatch.setattr("hies.pruning.files.check_weights", lambda *_: os.utime(tmp_path / "config.json"))
    with pytest.raises(hies.HiesError, match="written again while it was loaded"):
        hies.load_pruned(tmp_path)


def test_shards_and_generation_settings_are_loaded(tmp_path, monkeypatch):
    small = pruned("llama_grouped", "some")
    small.generation_config.max_new_tokens = 7
    save = type(small).save_pretrained

    def in_shards(model, folder, **options):
        save(model, folder, max_shard_size="9KB", **options)

    monkeypatch.setattr(type(small), "save_pretrained", in_shards)
    hies.save_pruned(small, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    back = hies.load_pruned(tmp_path)
    assert same(back, small) and back.generation_config.max_new_tokens == 7
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(hies.HiesError, match="has no file model-00002"):
        hies.load_pruned(tmp_path)


def test_a_folder_below_a_folder(tmp_path):
    small = pruned()
    hies.save_pruned(small, tmp_path / "below")
    assert same(hies.load_pruned(tmp_path, subfolder="below"), small)


def test_what_goes_to_the_disk_needs_a_folder(tmp_path):
    small = pruned("llama_grouped")
    hies.save_pruned(small, tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu",
              "model.layers": "disk"}  # fmt: skip
    with pytest.raises(hies.HiesError, match="offload_folder"):
        hies.load_pruned(tmp_path / "model", device_map=places)
    back = hies.load_pruned(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload")
    batch = make_batch("llama_grouped")
    with torch.no_grad():
        torch.testing.assert_close(back(**batch).logits, small(**batch).logits, atol=1e-5, rtol=0)


def test_checksums_name_every_file(tmp_path):
    save_file({"x": torch.ones(3)}, tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    write_checksums(tmp_path)
    check_checksums(tmp_path)
    (tmp_path / SUMS).write_text((tmp_path / SUMS).read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"b\.safetensors"):
        check_checksums(tmp_path)


# --- the model card ---------------------------------------------------------------------------------------------------


def test_the_card_says_what_is_gone_and_how_to_load_it(tmp_path):
    small = pruned("bert", "a layer")
    hies.save_pruned(small, tmp_path, metrics={"accuracy": "83.1 %"})
    text = (tmp_path / CARD).read_text()
    for site, heads in hies.pruned_heads(small).items():
        assert f"| `{site}` | 5 | {', '.join(map(str, heads))} |" in text
    assert "hies.load_pruned(" in text and "| accuracy | 83.1 % |" in text and "does not load it" in text


def test_a_card_of_ones_own_is_left(tmp_path):
    hies.save_pruned(pruned(), tmp_path)
    hies.save_pruned(pruned("bert", "all"), tmp_path)
    assert "without 10 attention heads" in (tmp_path / CARD).read_text()
    (tmp_path / CARD).write_text("mine")
    hies.save_pruned(pruned(), tmp_path)
    assert (tmp_path / CARD).read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "gone"),
    [("llama", [2]), ("llama", [0, 3]), ("llama", [0, 1, 2]), ("llama_grouped", [0, 1, 2]), ("llama_grouped", [0]),
     ("llama_grouped", [0, 4]), ("bert", [0]), ("gpt2", [0]), ("qwen3", [0, 1, 2]), ("phi3", [0, 1, 2])],
)  # fmt: skip
def test_saving_says_whether_from_pretrained_loads_it(name, gone, tmp_path):
    small, batch = pruned(name, gone=gone), make_batch(name)
    said = hies.save_pruned(small, tmp_path)
    assert ("loads it too" in (tmp_path / CARD).read_text()) == said
    try:
        with torch.no_grad():
            plain = torch.equal(type(small).from_pretrained(tmp_path)(**batch).logits, small(**batch).logits)
    except (RuntimeError, ValueError):
        plain = False
    assert said == plain


def test_a_scale_of_the_number_of_heads_is_seen(tmp_path, monkeypatch):
    build = LlamaAttention.__init__

    def scaled(self, config, layer_idx):
        build(self, config, layer_idx)
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5  # not by head_dim

    monkeypatch.setattr(LlamaAttention, "__init__", scaled)
    model = type(make("llama"))(make("llama").config)
    small = hies.prune(model, {site: [0, 3] for site in hies.find_sites(model, make_batch("llama"))})
    assert not hies.save_pruned(small, tmp_path)
    assert same(hies.load_pruned(tmp_path), small)


def test_a_cell_of_a_card_stays_one_cell():
    from hies.pruning.card import _cell

    assert _cell("a|b\nc") == "a\\|b c"


def test_a_model_type_whose_class_is_that_of_another_is_loaded(tmp_path):
    config = tf.CONFIG_MAPPING["internlm3"](
        vocab_size=53, hidden_size=48, num_hidden_layers=1, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=13, head_dim=8,
    )  # fmt: skip
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    assert isinstance(model, tf.LlamaForCausalLM)
    small = hies.prune(model, {"model.layers.0.self_attn": [0, 1]})
    hies.save_pruned(small, tmp_path)
    tokens = torch.tensor([[3, 5, 7]])
    torch.testing.assert_close(hies.load_pruned(tmp_path)(tokens).logits, small(tokens).logits)
