"""Models of the Hub, as its cache has them offline: results are told by the commit. Adapters are refused by name."""

import json
import shutil

import pytest
import torch
import transformers as tf
from hostile_folders import adapters
from small_folders import SIZES, write_folder

import hies
from experiments import finetune, run, status
from experiments.sweep import job as job_module
from hies.errors import HiesError, ParameterError
from hies.evaluation.models import Model, identity_of
from hies.evaluation.networks import load_network, load_weights
from hies.evaluation.sources import commit_of
from hies.tasks import TASKS

DIGITS = TASKS["digits"]()
FIRST, SECOND = "a" * 40, "b" * 40
WORDS = ["model=any", "model.name=words", "task=apidocs", "task.libraries=[filelock,packaging]",
         "task.train_per_class=40", "task.max_examples=11", "calibration.size=4", "criterion=l2",
         "model.finetune.epochs=1", "wandb.mode=disabled"]  # fmt: skip
LABELS = "+model.label_order.apidocs=[0,1]"


def bert(place, factor=1.0, kind=tf.BertForSequenceClassification):
    """A folder with a model whose weights are this many times those of any other."""
    model = kind(tf.BertConfig(**{**SIZES, "num_hidden_layers": 1}))
    write_folder(place, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    model.save_pretrained(place)
    return place


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The local cache of the Hub, as downloads leave it; gives what adds a commit of `me/model`, which main is then."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def push(commit, folder=None, name="me/model"):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        if folder is not None:
            shutil.copytree(folder, place / "snapshots" / commit)
        commit_of.cache_clear()  # as in a process of its own

    yield push
    commit_of.cache_clear()


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command; gives its exit status, what it printed, and its errors."""

    def call(module, *arguments):
        job_module._evaluators.clear()
        where = [f"cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/results"]
        monkeypatch.setattr("sys.argv", ["command", *WORDS, *where, *map(str, arguments)])
        code = module.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, [line for line in printed.err.splitlines() if line.startswith("error: ")]

    return call


def rows_in(folder):
    return [json.loads(line) for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]


def test_a_hub_name_stands_for_its_commit(hub, tmp_path):
    folder = bert(tmp_path / "one")
    assert identity_of("me/model") == "me/model" and commit_of("me/model") is None
    hub(FIRST, folder)
    model = Model(source="me/model")
    first = model.identity(DIGITS)
    assert first["weights"] == identity_of("me/model") == f"me/model@{FIRST}"
    (tmp_path / "hub" / "models--me--model" / "refs" / "main").write_text(SECOND)
    assert identity_of("me/model") == f"me/model@{FIRST}"  # of one process, which loads no other
    hub(SECOND, bert(tmp_path / "two", 0.5))
    assert model.identity(DIGITS)["weights"] == f"me/model@{SECOND}"
    given = Model(checkpoint={"digits": "me/model"}).identity(DIGITS)
    assert given["checkpoint"] == f"me/model@{SECOND}"
    further = TASKS["rte"](after=TASKS["mnli"]())
    assert model.identity(further)["after"][1]["weights"] == f"me/model@{SECOND}"
    assert commit_of(str(folder)) is commit_of("/no/such/folder") is commit_of("model.gguf") is None
    packaged = Model(source="me/model", packages=["numpy/model"], sha256="0" * 64)
    assert packaged.identity(DIGITS)["weights"].startswith("numpy==")


def test_what_is_loaded_is_of_the_commit_that_it_is_called_by(hub, tmp_path):
    one, two = bert(tmp_path / "one"), bert(tmp_path / "two", 0.5)
    hub(FIRST, one)
    assert commit_of("me/model") == FIRST
    place = tmp_path / "hub" / "models--me--model"
    shutil.copytree(two, place / "snapshots" / SECOND)
    (place / "refs" / "main").write_text(SECOND)  # while the process is at work
    loaded, expected = (load_network(Model(source="x"), source) for source in ("me/model", str(one)))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), expected.parameters(), strict=True))
    with pytest.raises(HiesError, match=r"^'me/other' is no folder .* Hub cannot be reached; give a local folder"):
        load_network(Model(source="x"), "me/other")


def test_a_name_whose_commit_is_not_known_is_not_loaded(hub, monkeypatch):
    """The Hub may answer the next moment: results would be those of any commit."""
    monkeypatch.setattr(tf.AutoTokenizer, "from_pretrained", lambda *_, **__: "a tokenizer")
    with pytest.raises(HiesError, match=r"^'me/model' is no folder"):
        load_weights(tf.AutoTokenizer, "me/model")


@pytest.mark.parametrize("ready", [True, False])
def test_an_updated_model_gives_neither_old_rows_nor_curves_of_two_models(hub, call, tmp_path, ready):
    kind = tf.BertForSequenceClassification if ready else tf.BertModel
    words = ["model.source=me/model", "sparsity.ratios=[0.5]"]
    words += ["+model.checkpoint.apidocs=me/model", LABELS] if ready else []
    hub(FIRST, bert(tmp_path / "one", 1, kind))
    code, _, errors = call(run, *words)
    assert code == 0, errors
    assert "All 1 jobs are finished" in call(run, *words)[1]
    before = rows_in(tmp_path / "results")
    hub(SECOND, bert(tmp_path / "two", 0.5, kind))
    assert "0 of 1 jobs finished" in call(status, *words)[1]
    code, text, errors = call(run, *words)
    assert code == 0 and "All 1 jobs" not in text, errors
    rows = rows_in(tmp_path / "results")
    assert len(rows) == 4 and len({row["run_id"] for row in rows}) == len({row["checkpoint"] for row in rows}) == 2
    names = {f"me/model@{FIRST}", f"me/model@{SECOND}"}
    assert ({row["checkpoint"] for row in rows} == names) is ready  # else digests of what was trained here
    hub(FIRST)
    assert "All 1 jobs are finished" in call(run, *words)[1]
    assert all(row in rows_in(tmp_path / "results") for row in before)


def test_status_needs_no_model_and_a_run_says_in_one_sentence_that_there_is_none(hub, call):
    code, text, errors = call(status, "model.source=me/model")
    assert code == 0 and "0 of 1 jobs finished, 1 missing" in text and not errors
    code, _, errors = call(run, "model.source=me/model")
    assert code == 1 and len(errors) == 1 and "'me/model' is no folder with a model" in errors[0]


def test_an_adapter_is_refused_with_the_option_and_what_to_do(call, tmp_path):
    whole = bert(tmp_path / "whole")
    adapters(tmp_path / "whole", tmp_path / "whole")  # transformers would load both
    (tmp_path / "alone").mkdir()
    adapters(tmp_path / "alone", tmp_path / "whole")
    merge = r"holds an adapter \(adapter_config\.json\).*merge_and_unload\(\).*save_pretrained\(\), and give the new"
    for module in (run, finetune, status):
        for folder in (whole, tmp_path / "alone"):
            code, _, errors = call(module, f"model.source={folder}")
            assert code == 2 and errors[0].startswith(f"error: model.source is '{folder}'; it holds an adapter (")
    code, _, errors = call(run, "model.source=me/model", f"+model.checkpoint.apidocs={whole}")
    assert code == 2 and errors[0].startswith(f"error: model.checkpoint is '{whole}'; it holds an adapter (")
    with pytest.raises(ParameterError, match=merge):
        load_network(Model(source="x"), str(whole))


def test_an_adapter_of_the_hub_is_refused_too(hub, tmp_path):
    whole = bert(tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    for folder in (tmp_path / "alone", tmp_path / "whole"):
        adapters(folder, tmp_path / "whole")
    hub(FIRST, whole)
    hub(SECOND, tmp_path / "alone", name="me/adapter")
    for name in ("me/model", "me/adapter"):
        with pytest.raises(ParameterError, match=rf"^source is '{name}'; it holds an adapter"):
            load_network(Model(source="x"), name)


def test_adapters_beside_a_pruned_model_are_not_read_and_refused(tmp_path):
    whole = bert(tmp_path / "whole")
    network = load_network(Model(source="x"), whole)
    (site,) = hies.find_sites(network, {"input_ids": torch.tensor([[5, 6, 7]])})
    hies.save_pruned(hies.prune(network, {site: [1]}), tmp_path / "small")
    adapters(tmp_path / "small", tmp_path / "whole")
    assert hies.pruned_heads(load_network(Model(source="x"), str(tmp_path / "small"))) == {site: [1]}


def test_weights_that_change_while_a_command_is_at_work_are_refused(hub, tmp_path, monkeypatch, call):
    folder = bert(tmp_path / "one")
    evaluator_of = job_module.evaluator_of

    def saved_again(config):
        bert(folder, 0.5)
        return evaluator_of(config)

    monkeypatch.setattr("experiments.sweep.worker.evaluator_of", saved_again)
    code, _, errors = call(run, f"model.source={folder}", f"+model.checkpoint.apidocs={folder}", LABELS)
    assert code == 1 and "The weights of model=words changed since the command began; give it again." in errors[0]
