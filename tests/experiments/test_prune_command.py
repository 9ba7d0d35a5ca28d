"""python -m experiments.prune: a folder with a smaller model, the table about it, and what is refused."""

import json
import re

import numpy as np
import pytest
import torch
import transformers as tf
from language_copy import copy_of
from small_folders import GROUPED, SIZES, keep_middle_layer_whole, write_folder

import hies
from experiments import prune, run
from experiments.sweep import job as job_module
from hies.heads import conventions
from hies.pruning.files import RECORD

DIGITS = ["model=vit_tiny", "task=digits", "model.finetune.epochs=3", "task.max_examples=101", "criterion=his"]
TEXT = ["model=any", "model.name=words", "task.libraries=[joblib,jinja2]", "task.train_per_class=20",
        "task.selection_per_class=20", "task.report_per_class=31", "+model.label_order.apidocs=[0,1]",
        "calibration.size=8"]  # fmt: skip
LABELS = {"id2label": {0: "joblib", 1: "jinja2"}, "label2id": {"joblib": 0, "jinja2": 1}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(cache, monkeypatch, capsys):
    """Run a command of this project; gives its exit status, what it printed, and its errors."""

    def call(*arguments, main=prune.main):
        job_module._evaluators.clear()  # as in a process of its own
        monkeypatch.setattr("sys.argv", ["command", f"cache_dir={cache}", *map(str, arguments)])
        status = main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, [line for line in printed.err.splitlines() if line.startswith("error: ")]

    return call


@pytest.fixture
def rows_of(call, tmp_path, monkeypatch):
    """The rows that experiments.run writes for the same arguments."""

    def rows_of(*arguments):
        folder = tmp_path / "results"
        status, _, errors = call(*arguments, "wandb.mode=disabled", f"results_dir={folder}", main=run.main)
        assert status == 0, errors
        return [json.loads(line) for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]

    return rows_of


def text_model(folder, kind, config):
    """The options for a classifier that lies in a folder."""
    write_folder(folder, kind(config(**LABELS)))
    return [*TEXT, f"model.source={folder}", f"+model.checkpoint.apidocs={folder}"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return text_model(
        tmp_path_factory.mktemp("bert"), tf.BertForSequenceClassification, lambda **o: tf.BertConfig(**SIZES, **o)
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return text_model(
        tmp_path_factory.mktemp("llama"), tf.LlamaForSequenceClassification, lambda **o: tf.LlamaConfig(**GROUPED, **o)
    )


def table_of(text):
    """The printed table, name -> (dense, pruned)."""
    lines = re.findall(r"^(\S.*?)  +(\S.*?)  +(\S.*)$", text, flags=re.MULTILINE)
    return {name: (dense, pruned) for name, dense, pruned in lines}


@pytest.mark.parametrize("sparsity", ["oneshot", "iterative"])
def test_the_folder_and_the_table_are_what_a_run_says(call, rows_of, tmp_path, sparsity):
    words = [*DIGITS, f"sparsity={sparsity}", "sparsity.ratio=0.4"]
    status, text, errors = call(*words, f"out={tmp_path}/new/small")
    dense, pruned = rows_of(*words)
    small = hies.load_pruned(tmp_path / "new" / "small")
    assert status == 0 and hies.pruned_heads(small) == pruned["mask"], errors
    told = table_of(text)
    assert told["heads"] == ("48", "29")
    assert told["parameters"] == tuple(
        f"{count / 1000:.3g} k" for count in (dense["parameters"], sum(p.numel() for p in small.parameters()))
    )
    assert told["FLOPs of an example"] == tuple(f"{row['flops'] / 1e6:.3g} M" for row in (dense, pruned))
    assert told["quality (accuracy)"] == tuple(f"{row['quality']:.1f} %" for row in (dense, pruned))
    assert told["stability"] == ("100.0 %", f"{pruned['stability']:.1f} %")
    assert pruned["stability"] < 100  # else the table could speak of the dense model twice
    card = (tmp_path / "new" / "small" / "README.md").read_text()
    assert f"| quality (accuracy) | {pruned['quality']:.1f} % (before: {dense['quality']:.1f} %) |" in card
    assert "Plain from_pretrained does not load it" in text


def test_what_is_measured_is_the_folder(call, tmp_path, monkeypatch):
    load = hies.load_pruned

    def broken(folder):
        model = load(folder)
        model.classifier.weight.data.zero_()
        model.classifier.bias.data.copy_(model.classifier.bias.new_ones(10).cumsum(0))
        return model

    monkeypatch.setattr(hies, "load_pruned", broken)
    _, text, _ = call(*DIGITS, "sparsity.ratio=0.1", f"out={tmp_path}/small")
    (bench,) = job_module._evaluators.values()
    nines = 100 * np.mean(bench.labels("report") == 9)
    assert table_of(text)["quality (accuracy)"][1] == f"{nines:.1f} %"


def test_the_printed_lines_load_the_model(call, tmp_path):
    _, text, _ = call(*DIGITS, "sparsity.ratio=0.2", f"out={tmp_path}/small")
    names = {}
    exec("\n".join(text.splitlines()[-2:]), names)
    assert sum(map(len, hies.pruned_heads(names["model"]).values())) == 10


def test_the_tokenizer_comes_along_and_alpha_is_chosen_as_in_a_run(call, rows_of, bert, tmp_path):
    words = [*bert, "criterion=hies_per_task", "criterion.alphas=[0.9,0.2]", "sparsity.ratio=0.5"]
    status, text, errors = call(*words, f"out={tmp_path}/small")
    _, pruned = rows_of(*words)
    assert status == 0 and hies.pruned_heads(hies.load_pruned(tmp_path / "small")) == pruned["mask"], errors
    assert f"hies (alpha {pruned['alpha_used']}) on 8 calibration examples, seed 0: 9 of 18 heads" in text
    source = next(word.partition("=")[2] for word in bert if word.startswith("model.source"))
    ours, theirs = (
        tf.AutoTokenizer.from_pretrained(folder)("Fit an array.") for folder in (tmp_path / "small", source)
    )
    assert ours["input_ids"] == theirs["input_ids"]


def test_whole_groups_stay_whole(call, llama, tmp_path):
    status, _, errors = call(*llama, "sparsity.ratio=0.3", "sparsity.unit=kv_group", f"out={tmp_path}/small",
                             "criterion=his")  # fmt: skip
    removed = hies.pruned_heads(hies.load_pruned(tmp_path / "small"))
    assert status == 0 and sum(map(len, removed.values())) == 6, errors  # 5 of 18 were asked for
    for heads in removed.values():
        assert {head - head % 3 + i for head in heads for i in range(3)} == set(heads)


def test_what_can_be_cut_is_cut_and_one_line_says_what_stays(call, rows_of, llama, tmp_path, monkeypatch):
    keep_middle_layer_whole(monkeypatch)
    words = [*llama, "sparsity.ratio=0.5", "criterion=his"]
    status, text, errors = call(*words, f"out={tmp_path}/small")
    removed = hies.pruned_heads(hies.load_pruned(tmp_path / "small"))
    assert status == 0 and sum(map(len, removed.values())) == 6, errors
    assert removed == rows_of(*words, "model.sites=prunable")[1]["mask"]
    assert "\nHeads are removed from 2 of 3 sites; the others stay whole: model.layers.1.self_attn (it is sewn" in text
    assert "6 of 12 heads cut out" in text and table_of(text)["heads"] == ("12", "6")
    for all_heads in ("model.sites=layers", "criterion=greedy", "criterion=l2"):
        status, _, (error,) = call(*words, all_heads, f"out={tmp_path}/other")
        assert status == 2 and "site 'model.layers.1.self_attn' cannot be cut out: it is sewn together" in error


def test_a_language_model_loses_a_group_of_every_layer_and_its_card_has_tokens_a_second(call, tmp_path, monkeypatch):
    monkeypatch.setattr(prune, "NEW_TOKENS", 3)
    dense, data = tmp_path / "dense", copy_of(tmp_path / "data", "hellaswag")
    write_folder(dense, tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)))
    tf.AutoTokenizer.from_pretrained(dense, eos_token="[SEP]").save_pretrained(dense)
    (dense / "weights.txt").write_text("4-bit weights, dequantised\n")
    words = ["model=language", f"model.source={dense}", "model.max_length=512", "task=hellaswag",
             "task.max_examples=3", "calibration.size=2", "criterion=his", f"data_root={data}",
             "sparsity.ratio=0.5", "sparsity.scope=layer", "sparsity.unit=kv_group"]  # fmt: skip
    status, text, errors = call(*words, f"out={tmp_path}/small")
    assert status == 0, errors
    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "small")  # not by way of the library
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads) == (3, 1)
    tokens = tf.AutoTokenizer.from_pretrained(tmp_path / "small")("sun", return_tensors="pt")["input_ids"]
    small = hies.load_pruned(tmp_path / "small").eval()
    torch.testing.assert_close(plain(tokens).logits, small(tokens).logits)
    card = (tmp_path / "small" / "README.md").read_text()
    for what in ("read", "generated"):
        before, after = table_of(text)[f"tokens {what} a second"]
        assert f"| tokens {what} a second | {after} (before: {before}) |" in card
        assert re.search(rf"\| gain in tokens {what} \| [+-][\d.]+ %, quartiles .* texts? of \d+ tokens", card)
    assert "| weights | 4-bit weights, dequantised |" in card and "weights: 4-bit weights, dequantised\n" in text
    assert re.search(r"\| speed \| medians over rounds of both models in turn; float32, cpu .* load", card)


def test_an_image_processor_comes_along(call, tmp_path):
    call(*DIGITS, "sparsity.ratio=0.2", f"out={tmp_path}/first")
    (bench,) = job_module._evaluators.values()
    checkpoint = tmp_path / "checkpoint"
    bench.network.save_pretrained(checkpoint)
    tf.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(checkpoint)
    words = [*DIGITS, f"+model.checkpoint.digits={checkpoint}", "sparsity.ratio=0.2"]
    status, _, errors = call(*words, f"out={tmp_path}/second")
    assert status == 0 and (tmp_path / "second" / "preprocessor_config.json").exists(), errors
    assert not (tmp_path / "first" / "preprocessor_config.json").exists()


def test_an_earlier_model_is_replaced_and_what_lies_beside_it_stays(call, tmp_path):
    for ratio, heads in ((0.5, 24), (0.25, 12)):
        status, _, errors = call(*DIGITS, f"sparsity.ratio={ratio}", f"out={tmp_path}/small")
        removed = hies.pruned_heads(hies.load_pruned(tmp_path / "small"))
        assert status == 0 and sum(map(len, removed.values())) == heads, errors
        (tmp_path / "small" / "README.md").write_text("mine")
    assert (tmp_path / "small" / "README.md").read_text() == "mine"


def test_a_folder_of_other_files_is_left_alone(call, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    status, _, (error,) = call(*DIGITS, "sparsity.ratio=0.3", f"out={tmp_path}")
    assert status == 2 and str(tmp_path) in error and "new or empty folder" in error
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert call(*DIGITS, "sparsity.ratio=0.3", f"out={tmp_path}/empty")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sparsity.ratio=0.3"], ["out is missing", "out=DIR"]),
        (["out={new}"], ["sparsity.ratios", "sparsity.ratio=0.3"]),
        (["sparsity.ratios=[0.1,0.3]", "out={new}"], ["[0.1, 0.3]", "sparsity.ratio=0.3"]),
        (["sparsity.ratio=1.3", "out={new}"], ["sparsity.ratio is 1.3", "between 0"]),
        (["sparsity.ratio=-0.1", "out={new}"], ["sparsity.ratio is -0.1"]),
        (["sparsity.ratio=0", "out={new}"], ["sparsity.ratio is 0.0", "none of the 48 heads"]),
        (["sparsity.ratio=0.01", "out={new}"], ["sparsity.ratio is 0.01", "none of the 48 heads"]),
        (["sparsity.ratio=0.9", "sparsity.min_heads_per_layer=2", "out={new}"], ["0.9", "min_heads_per_layer=2"]),
        (["sparsity.ratio=0.3", "out={new}", "experiment=digits"], ["3 jobs", "one"]),
        (["sparsity.ratio=0.3", "out={file}"], ["out is", "file"]),
        (["sparsity.ratio=0.3", "out={file}/below"], ["out is", "file/below"]),
        (["sparsity.ratio=0.3", "out={file}/../file"], ["out is", "file", "Not a directory"]),
        (["sparsity.ratio=0.3", "out=/"], ["out is '/', which holds files"]),
        (["sparsity.ratio=0.3", "out=.."], ["out is '..', which holds files"]),
        (["sparsity.ratio=0.3", "out={new}/" + 250 * "x"], ["out is", "xxx"]),
        (["sparsity.ratio=0.3", "out={file}-loop"], ["out is", "loop"]),
        (["sparsity.ratio=0.3", "oot={new}"], ["'oot'", "did you mean 'out'"]),
    ],
)
def test_a_mistake_is_one_sentence_said_before_anything_is_computed(call, tmp_path, arguments, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "file-loop").symlink_to(tmp_path / "file-loop")
    arguments = [word.format(new=tmp_path / "new", file=tmp_path / "file") for word in arguments]
    status, text, (error,) = call(*DIGITS, *arguments, f"cache_dir={tmp_path}/cache")
    assert status == 2 and not text
    assert all(word in error for word in words), error
    assert not list(tmp_path.glob("cache/*/*")) and not (tmp_path / "new").exists()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("out", [".", "link", "new/../empty", "dangling"])
def test_the_folder_may_be_this_one_or_a_link(call, tmp_path, monkeypatch, out):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "empty" / "below")
    monkeypatch.chdir(tmp_path / "empty" if out == "." else tmp_path)
    before = (tmp_path / "empty").stat().st_ino
    status, _, errors = call(*DIGITS, "sparsity.ratio=0.3", f"out={out}")
    assert status == 0, errors
    place = tmp_path / "empty" / ("below" if out == "dangling" else "")
    assert hies.pruned_heads(hies.load_pruned(place)) and not list(place.glob(".*"))
    assert (tmp_path / "empty").stat().st_ino == before and (tmp_path / "link").is_symlink()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(call, tmp_path, monkeypatch):
    make = prune.Path.mkdir

    def denied(path, *arguments, **options):
        if path.parent == tmp_path / "closed":  # root may write anywhere
            raise PermissionError(13, "Permission denied")
        make(path, *arguments, **options)

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(prune.Path, "mkdir", denied)
    for out in ("closed", "closed/new/small"):
        words = f"out={tmp_path}/{out}", f"cache_dir={tmp_path}/cache"
        status, text, (error,) = call(*DIGITS, "sparsity.ratio=0.3", *words)
        assert status == 2 and not text and f"out is '{tmp_path}/{out}'" in error and "Permission denied" in error
    assert not list(tmp_path.glob("cache/*/*"))


def test_a_model_that_cannot_be_cut_is_refused_before_it_is_fine_tuned(call, tmp_path, monkeypatch):
    monkeypatch.setitem(conventions.REFUSED, "ViTAttention", "they are sewn together")
    status, _, (error,) = call(*DIGITS, "sparsity.ratio=0.3", f"out={tmp_path}/small", f"cache_dir={tmp_path}/cache")
    assert status == 2 and "sewn together" in error
    assert not (tmp_path / "small").exists() and not list(tmp_path.glob("cache/*/*"))


def test_a_full_disk_leaves_no_half_written_folder(call, tmp_path, monkeypatch):
    save = hies.save_pruned

    def full(model, folder):
        save(model, folder)
        (folder / RECORD).unlink()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hies, "save_pruned", full)
    status, _, (error,) = call(*DIGITS, "sparsity.ratio=0.3", f"out={tmp_path}/small")
    assert status == 2 and f"{tmp_path}/small" in error and "No space left" in error
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_an_earlier_model_with_its_own_tokenizer(call, bert, tmp_path, monkeypatch):
    words, folder = [*bert, "criterion=his", "sparsity.ratio=0.5", f"out={tmp_path}/small"], tmp_path / "small"
    assert call(*words)[0] == 0
    (folder / "tokenizer_config.json").write_text("of the earlier model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(model, place):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(hies, "save_pruned", full)
        assert call(*words)[0] == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert call(*words)[0] == 0
    assert {path.name for path in folder.iterdir()} == before.keys()
    assert (folder / "tokenizer_config.json").read_text() != "of the earlier model"


def test_the_help_says_how_to_call_it(call):
    status, text, _ = call("--help")
    assert status == 0 and "sparsity.ratio=0.3 out=DIR" in text
