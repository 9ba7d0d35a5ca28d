"""Folders as models: a classifier that fits is taken as it is, and every command takes the folders of pruned models."""

import json

import pytest
import torch
import transformers as tf
from glue_copy import write_copy
from small_folders import GROUPED, SIZES, write_folder

import hies
from experiments import diagnose, finetune, prune, run
from experiments.sweep import job as job_module
from hies.errors import HiesError
from hies.evaluation.models import Model, fitted, identity_of
from hies.evaluation.networks import load_network
from hies.tasks import TASKS

TEXT = ["model=any", "model.name=words", "task.max_examples=31", "calibration.size=8", "criterion=his",
        "task.finetune.epochs=1", "wandb.mode=disabled"]  # fmt: skip
NAMED = {"id2label": {0: "Entailment", 1: "not entailment"}, "label2id": {"Entailment": 0, "not entailment": 1}}
ORDER = "+model.label_order.rte=[0,1]"
TASK = TASKS["rte"]()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("rte", "mnli"):
        write_copy(folder / "data", TASKS[name], train=40, report=31)
    return folder


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """Run a command of this project; gives its exit status, what it printed, and its errors."""

    def call(module, *arguments, task="rte"):
        job_module._evaluators.clear()  # as in a process of its own
        where = [f"cache_dir={folder}/cache", f"results_dir={folder}/results", f"data_root={folder}/data"]
        words = [f"task={task}", *where, *map(str, arguments)]
        monkeypatch.setattr("sys.argv", ["command", *TEXT, *words])
        status = module.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, [line for line in printed.err.splitlines() if line.startswith("error: ")]

    return call


def bert(place, **options):
    return write_folder(place, tf.BertForSequenceClassification(tf.BertConfig(**SIZES, **options)))


@pytest.fixture(scope="module", params=["bert", "llama"])
def sources(request, folder):
    """A classifier, and that with some of its heads (of one layer all) cut out, as folders."""
    place = folder / request.param
    if request.param == "bert":
        bert(place, **NAMED)
    else:
        write_folder(place, tf.LlamaForSequenceClassification(tf.LlamaConfig(**GROUPED, **NAMED)))
    dense = load_network(Model(source=str(place)), str(place))
    first, second, third = hies.find_sites(dense, {"input_ids": torch.tensor([[5, 6, 7]])})
    small = hies.prune(dense, {first: [1, 4], second: range(6), third: [0]})
    pruned = folder / f"{request.param}-pruned"
    tf.AutoTokenizer.from_pretrained(place).save_pretrained(pruned)
    hies.save_pruned(small, pruned)
    return place, pruned


def test_a_source_that_fits_is_pruned_as_it_is(call, sources, tmp_path):
    place, _ = sources
    status, text, errors = call(prune, f"model.source={place}", ORDER, "sparsity.ratio=0.4", f"out={tmp_path}/out")
    assert status == 0, errors
    assert text.startswith(f"words is not trained: {place} is taken for rte as it is.")
    assert f"The dense model was not trained here: {place}" in text
    small, dense = hies.load_pruned(tmp_path / "out"), load_network(Model(source="x"), str(place))
    removed = hies.pruned_heads(small)
    expected = hies.prune(dense, removed).state_dict()
    assert sum(map(len, removed.values())) == 7 and small.config.id2label == dense.config.id2label
    assert all(torch.equal(expected[name], tensor) for name, tensor in small.state_dict().items())


def test_a_source_without_a_classifier_is_trained_and_that_is_said(call, folder, tmp_path):
    place = write_folder(folder / "body", tf.BertModel(tf.BertConfig(**SIZES)))
    words = f"model.source={place}", ORDER, "sparsity.ratio=0.4"
    for out, when in (("one", "is trained first on"), ("two", "was trained on")):
        status, text, errors = call(prune, *words, f"out={tmp_path}/{out}")
        assert status == 0 and text.startswith(f"words {when} rte, from {place}; "), errors
        assert f"The dense model was trained on rte here: {folder}/cache/checkpoints/words-rte-" in text


def test_every_command_takes_a_pruned_folder(call, sources, folder, tmp_path):
    _, pruned = sources
    small = hies.load_pruned(pruned)
    status, text, errors = call(prune, f"model.source={pruned}", ORDER, "sparsity.ratio=0.34", f"out={tmp_path}/out")
    assert status == 0 and f"The given model was not trained here: {pruned}" in text, errors
    before, after = hies.pruned_heads(small), hies.pruned_heads(hies.load_pruned(tmp_path / "out"))
    assert all(set(heads) <= set(after[site]) for site, heads in before.items())
    assert sum(map(len, after.values())) == sum(map(len, before.values())) + 3  # of the 9 that were left
    for number, words in enumerate(
        ([f"model.source={pruned}"], ["model.source=none", f"+model.checkpoint.rte={pruned}"])
    ):
        status, _, errors = call(run, *words, ORDER, "sparsity.ratios=[0.5]", f"name=run{number}")
        assert status == 0, errors
        (path,) = (folder / "results" / f"run{number}").glob("*.jsonl")
        dense = json.loads(path.read_text().splitlines()[0])
        assert (dense["heads_total"], dense["checkpoint"]) == (9, identity_of(str(pruned)))
        path.unlink()
    assert call(diagnose, f"model.source={pruned}", ORDER, "sparsity.ratios=[0.3,0.5,0.7,0.9,1.0]")[0] in (0, 1)


def test_every_command_takes_what_transformers_4_pruned(call, folder):
    model = tf.BertForSequenceClassification(tf.BertConfig(**SIZES, **NAMED, pruned_heads={"1": [2, 5]}))
    place = write_folder(folder / "four", model)
    with torch.no_grad():
        for head in (2, 5):  # of 8 units
            model.bert.encoder.layer[1].attention.output.dense.weight[:, 8 * head : 8 * head + 8] = 0
    model.save_pretrained(place)
    status, _, errors = call(run, f"model.source={place}", ORDER, "sparsity.ratios=[0.5]", "name=four")
    assert status == 0, errors
    (path,) = (folder / "results" / "four").glob("*.jsonl")
    assert json.loads(path.read_text().splitlines()[0])["heads_total"] == 16


def test_a_pruned_folder_is_trained_further_and_stays_pruned(call, sources):
    _, pruned = sources
    small = hies.load_pruned(pruned)
    for task, outputs in (("rte", 2), ("mnli", 3)):
        status, text, errors = call(finetune, f"model.source={pruned}", task=task)
        assert status == 0, errors
        trained = hies.load_pruned(text.partition(": ")[2].partition(", quality")[0])
        assert hies.pruned_heads(trained) == hies.pruned_heads(small) and trained.config.num_labels == outputs
        body, before = trained.base_model.state_dict(), small.base_model.state_dict()
        moved = [name for name in body if body[name].dim() > 1 and not torch.equal(body[name], before[name])]
        assert moved and max((body[name] - before[name]).abs().max() for name in moved) < 0.1


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        (NAMED, True),
        ({"id2label": {0: "not_entailment", 1: "entailment"}}, True),  # the order is found by name
        ({}, True),  # LABEL_0 and LABEL_1: the order is found from answers, or asked for
        ({"id2label": {0: "good", 1: "bad"}}, False),
        ({"num_labels": 3}, False),
    ],
)
def test_a_classifier_fits_by_number_and_name(tmp_path, options, fits):
    model = Model(source=str(bert(tmp_path / "m", **options)))
    found, _ = fitted(model, TASK, None)
    assert found.checkpoint == ({"rte": str(tmp_path / "m")} if fits else {})


def test_a_head_that_is_not_there_and_other_sources_fit_nothing(tmp_path):
    body = write_folder(tmp_path / "body", tf.BertModel(tf.BertConfig(**SIZES)))
    config = json.loads((body / "config.json").read_text()) | {"architectures": ["BertForSequenceClassification"]}
    (body / "config.json").write_text(json.dumps(config))
    tokens = write_folder(tmp_path / "tokens", tf.BertForTokenClassification(tf.BertConfig(**SIZES)))
    for source in (body, tokens, tmp_path, tmp_path / "none", "org/name"):
        model = Model(source=str(source))
        assert fitted(model, TASK, None)[0] is model
    with pytest.raises(HiesError, match=r"lacks the weights 'classifier.bias' of its BertForSequenceClassification"):
        load_network(Model(source="x"), str(body))
    with pytest.raises(HiesError, match=r"lacks the weights"):  # a head that another class would leave out
        load_network(Model(source="x", modality="language"), str(tokens))


def test_a_single_output_fits_a_task_with_scores(tmp_path):
    model = Model(source=str(bert(tmp_path / "m", num_labels=1)))
    assert fitted(model, TASKS["stsb"](), None)[0].checkpoint == {"stsb": str(tmp_path / "m")}
    assert fitted(model, TASKS["rte"](), None)[0] is model


def test_a_pruned_folder_of_another_class_is_refused_and_its_record_is_part_of_its_identity(sources, tmp_path):
    _, pruned = sources
    with pytest.raises(HiesError, match=r"holds a pruned \w+ForSequenceClassification, which is no ModelForCausalLM"):
        load_network(Model(source="x", modality="language"), str(pruned))
    before = identity_of(str(pruned))
    record = pruned / "pruned_heads.json"
    text = record.read_text()
    record.write_text(text + " ")
    assert identity_of(str(pruned)) != before
    record.write_text(text)
