"""Tables of one's own: labels by the model's names or numbers, several labels, scores, pairs, images; one command."""

import io
import json
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from PIL import Image
from sklearn.metrics import f1_score
from small_folders import SIZES, write_folder

import hies
from experiments import prune, run
from experiments.sweep import job as job_module
from hies.errors import HiesError
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.metrics import quality
from hies.evaluation.models import Model, fitted
from hies.runs.quality import stability
from hies.tasks import TASKS

CPU = torch.device("cpu")
FINGERPRINT = "8879be8d1834"  # of rows with the classes 0, 1 and 2: part of the ids of runs that there are
WORDS = ["sun", "moon", "river", "stone", "bird", "tree"]


def rows(count=43, **columns):
    draw = np.random.default_rng(0)
    texts = [f"{i} {' '.join(draw.choice(WORDS, 3))}" for i in range(count)]
    return pd.DataFrame({"text": texts, **{name: [make(i) for i in range(count)] for name, make in columns.items()}})


def file(folder, frame, name="mine.csv"):
    path = folder / name
    frame.to_json(path, orient="records", lines=True) if path.suffix == ".jsonl" else frame.to_csv(path, index=False)
    return str(path)


def bert(folder, **options):
    if not folder.exists():
        write_folder(folder, tf.BertForSequenceClassification(tf.BertConfig(**SIZES, **options)))
    return str(folder)


def named(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def pair(folder, path, outputs, **options):
    """A table and a model as a command brings them together."""
    task = TASKS["table"](train=path, **options)
    return fitted(Model(source=bert(folder / "-".join(outputs), **named(*outputs))), task, None)


def logits_of(folder, texts):
    network = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = tf.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return np.stack([network(**tokens(text, return_tensors="pt")).logits[0].double().numpy() for text in texts])


def test_labels_are_those_of_the_model_by_name_in_the_order_of_its_outputs(tmp_path):
    path = file(tmp_path, rows(label=lambda i: ["Not_Good", "good"][i % 2]))
    model, task = pair(tmp_path, path, ("good", "fair", "not good"))
    assert task.label_names() == ("good", "fair", "not good") and model.checkpoint == {"mine": model.source}
    splits = task.load_checked(None, tmp_path)
    assert set(splits.report.labels.tolist()) == {0, 2}
    found = Evaluator(model, task, None, tmp_path / "cache", CPU).evaluate({})
    expected = logits_of(model.source, splits.report.inputs["text"])
    np.testing.assert_array_equal(found.answers, expected.argmax(axis=1))
    nats = np.log(np.exp(expected).sum(axis=1)) - expected[np.arange(len(expected)), splits.report.labels]
    np.testing.assert_allclose(found.losses["losses"], nats, rtol=1e-4)


def test_whole_numbers_are_the_numbers_of_outputs(tmp_path):
    path = file(tmp_path, rows(label=lambda i: (0, 2)[i % 2]))
    _, task = pair(tmp_path, path, ("bad", "fair", "good"))
    assert task.label_names() == ("0", "1", "2") and task.numbered
    assert set(task.load_checked(None, tmp_path).train.labels.tolist()) == {0, 2}


@pytest.mark.parametrize(("classes", "first"), [([0, 1, 2], {1, 2}), ([1, 2, 3], {0, 1})])
def test_whole_numbers_without_a_0_count_as_is_said(tmp_path, classes, first):
    path = file(tmp_path, rows(label=lambda i: (1, 2)[i % 2]))
    _, task = pair(tmp_path, path, ("bad", "fair", "good"), classes=classes)
    assert set(task.load_checked(None, tmp_path).train.labels.tolist()) == first


def test_numbers_of_classes_that_the_hub_names_as_the_model_does_stand_for_these_names(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["Yes", "no"])})
    path = tmp_path / "me" / "answers" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    columns = rows(label=lambda i: int(i % 3 > 0)).to_dict("list")
    datasets.Dataset.from_dict(columns, features).to_parquet(str(path))
    task = TASKS["table"](train="me/answers")
    shares = [
        float(np.mean(task.for_classifier(outputs, tmp_path).load(tmp_path, tmp_path).report.labels))
        for outputs in (["yes", "no"], ["no", "yes"], ["a", "b"])
    ]
    assert shares[0] == shares[2] == 1 - shares[1] > 0.5


@pytest.mark.parametrize(
    "names", [("01", "02", "03"), ("01", "00"), ("1e1", "2e1"), ("1_0", "10"), ("C", "c"), ("1.5", "2.5"), ("inf", "x")]
)
@pytest.mark.parametrize("kind", ["classification", "multi_label"])
def test_a_label_is_the_name_that_it_is_letter_by_letter_before_any_other(tmp_path, names, kind):
    path = file(tmp_path, rows(label=lambda i: names[i % len(names)]))
    for outputs in (names, names[::-1]):
        task = TASKS["table"](train=path, kind=kind).for_classifier(outputs, None)
        split = task.load_checked(None, tmp_path).report
        for text, label in zip(split.inputs["text"], split.labels, strict=True):
            place = label if kind == "classification" else label.index("1")
            assert outputs[place] == names[int(text.split()[0]) % len(names)]


def test_only_plain_decimal_numbers_are_numbers(tmp_path):
    for texts, expected in (
        (("2", "10"), ("2", "10")),
        (("2.0", "10.0"), ("2", "10")),
        (("+1", "-1"), ("-1", "1")),
        (("1", "01", "1_0"), ("01", "1", "1_0")),
        (("infinity", "²"), ("infinity", "²")),
    ):
        path = file(tmp_path, rows(label=lambda i, texts=texts: texts[i % len(texts)]).astype(str), "mine.jsonl")
        task = TASKS["table"](train=path)
        assert sorted(task.label_names()) == sorted(expected)
        assert len(set(task.load(None, tmp_path).train.labels.tolist())) == len(expected)
    path = file(tmp_path, rows(label=lambda i: i % 3))
    assert TASKS["table"](train=path).fingerprint(None) == FINGERPRINT
    floats = file(tmp_path, rows(label=lambda i: float(i % 3)), "mine.jsonl")
    assert TASKS["table"](train=floats).fingerprint(None) == FINGERPRINT


def test_classes_that_differ_in_upper_case_are_told_apart_where_classes_names_both(tmp_path):
    path = file(tmp_path, rows(label=lambda i: ("us", "US", "x")[i % 3]))
    with pytest.raises(
        HiesError, match=r"^mine\.csv, row 2, column 'label': 'US' may be 'us' of mine\.csv, row 1; wri"
    ):
        TASKS["table"](train=path).label_names()
    assert set(TASKS["table"](train=path, classes=["US", "us", "x"]).load(None, tmp_path).train.labels) == {0, 1, 2}
    assert set(TASKS["table"](train=path, classes=["us", "x"]).load(None, tmp_path).train.labels) == {0, 1}


@pytest.mark.parametrize("kind", ["classification", "multi_label"])
def test_classes_that_contradict_the_names_of_the_outputs_are_refused(tmp_path, kind):
    path = file(tmp_path, rows(label=lambda i: ("toxic", "rude")[i % 2]))
    says = r"^task\.classes is \['rude', 'toxic'\]; the model calls its outputs toxic, rude, in this order; leave task"
    with pytest.raises(HiesError, match=says):
        pair(tmp_path, path, ("toxic", "rude"), kind=kind, classes=["rude", "toxic"])
    with pytest.raises(HiesError, match=r"^task\.classes is \['rude', 'odd', 'toxic'\]; the model calls its outputs"):
        pair(tmp_path, path, ("toxic", "fine", "rude"), kind=kind, classes=["rude", "odd", "toxic"])
    ours = [
        pair(tmp_path, path, outputs, kind=kind, classes=["toxic", "rude"])[1].fingerprint(None)
        for outputs in (("toxic", "rude"), ("LABEL_0", "LABEL_1"), ("Toxic", "ungentle"))
    ]
    assert len(set(ours)) == 1


def test_a_checkpoint_that_is_no_folder_yet_must_name_several_labels_in_their_order(tmp_path):
    path = file(tmp_path, rows(label=lambda i: ("toxic", "rude")[i % 2]))
    for names, options, says in (
        (("toxic", "rude"), {}, r"^task\.classes is None; the model has toxic, rude; name what each output stands for"),
        (("LABEL_0", "LABEL_1"), {}, r"^task\.classes is None; the model has LABEL_0, LABEL_1; name what each"),
        (("toxic", "rude"), {"classes": ["rude", "toxic"]}, r"^task\.classes is \['rude', 'toxic'\]; the model calls"),
    ):
        network = tf.BertForSequenceClassification(tf.BertConfig(**SIZES, **named(*names)))
        with pytest.raises(HiesError, match=says):
            TASKS["table"](train=path, kind="multi_label", **options).check_network(network, None, "me/bert")
    fitting = TASKS["table"](train=path, kind="multi_label", classes=["toxic", "rude"])
    fitting.check_network(network, None, "me/bert")


def test_labels_that_differ_beyond_53_bits_are_two(tmp_path):
    for name in ("ids.csv", "ids.jsonl"):
        path = file(tmp_path, rows(label=lambda i: 2**53 + i % 2), name)
        assert TASKS["table"](train=path).label_names() == ("9007199254740992", "9007199254740993")


@pytest.mark.parametrize(
    ("labels", "outputs", "options", "says"),
    [
        (("good", "odd"), ("good", "bad"), {}, r"row 2, column 'label': the label 'odd' is none .* \(good, bad\)"),
        ((0, 2), ("good", "bad"), {}, r"^mine\.csv, row 2, column 'label': the label '2' is none .* count from 0\.$"),
        ((1, 2), ("a", "b", "c"), {}, r"^task\.classes is None; labels are 1 to 2 of 3, which may count from 0"),
        (("good", "bad"), ("LABEL_0", "LABEL_1", "LABEL_2"), {}, r"^task\.classes is None; the model does not name"),
        (("good", "odd"), ("LABEL_0", "LABEL_1"), {"classes": ["good", "bad"]}, r"row 2, .*'odd' is none of the 2 of"),
        (("good", "bad"), ("a", "b", "c"), {"classes": ["good", "bad"]}, r"^task\.classes is .* has 3 outputs, not 2"),
        ((1, 2), ("a", "b"), {"kind": "regression", "scale": [1, 5]}, r"^task\.kind is 'regression'; .* has 2 outputs"),
    ],
)  # fmt: skip
def test_labels_that_a_model_does_not_have_are_refused_and_nothing_is_trained(tmp_path, labels, outputs, options, says):
    path = file(tmp_path, rows(label=lambda i: labels[i % 2]))
    with pytest.raises(HiesError, match=says):
        pair(tmp_path, path, outputs, **options)[1].load(None, tmp_path)


def test_a_model_without_names_is_told_by_classes_or_by_its_answers(tmp_path):
    path = file(tmp_path, rows(label=lambda i: ["b", "a"][i % 2]))
    outputs = ("LABEL_0", "LABEL_1")
    assert pair(tmp_path, path, outputs)[1].label_names() == ("a", "b")  # sorted; answers tell the order
    model, task = pair(tmp_path, path, outputs, classes=["b", "a"])
    assert task.numbered and task.label_names() == ("b", "a") and model.checkpoint


def test_a_folder_without_a_classifier_is_trained_on_the_labels(tmp_path):
    path = file(tmp_path, rows(label=lambda i: ["b", "a"][i % 2]))
    body = write_folder(tmp_path / "body", tf.BertModel(tf.BertConfig(**SIZES)))
    model, task = fitted(Model(source=str(body)), TASKS["table"](train=path), None)
    assert not model.checkpoint and task.network_options(None, {}, None)["id2label"] == {0: "a", 1: "b"}


def test_splits_keep_the_shares_of_common_sets_of_labels(tmp_path):
    path = file(
        tmp_path, rows(80, toxic=lambda i: int(i % 2), rude=lambda i: int(i % 4 == 0), odd=lambda i: int(i == 3))
    )
    splits = TASKS["table"](train=path, label=["toxic", "rude", "odd"]).load_checked(None, tmp_path)
    for split, size in ((splits.train, 48), (splits.selection, 16), (splits.report, 16)):
        bits = np.array([[*map(int, text)] for text in split.labels])
        assert len(bits) == size and bits[:, :2].sum(axis=0).tolist() == [size // 2, size // 4]


@pytest.mark.parametrize("form", ["columns", "lists", "parted"])
def test_several_labels_are_one_answer_and_stable_where_all_are_the_same(tmp_path, form):
    wanted = [(i % 2 == 0, i % 3 == 0, i % 5 == 0) for i in range(43)]
    names = ("rude", "loud", "odd")
    several = [[name for name, held in zip(names, one, strict=True) if held] for one in wanted]
    columns = {
        "columns": {name: lambda i, place=place: int(wanted[i][place]) for place, name in enumerate(names)},
        "lists": {"label": several.__getitem__},
        "parted": {"label": lambda i: "|".join(several[i])},
    }[form]
    path = file(tmp_path, rows(**columns), "mine.jsonl")
    options = {"label": list(names)} if form == "columns" else {"kind": "multi_label"}
    outputs = ("odd", "rude", "loud")
    model, task = pair(tmp_path, path, outputs, **options)
    assert (task.kind, task.metric, task.label_names()) == ("multi_label", "f1_macro", ())
    splits = task.load_checked(None, tmp_path)
    text_of = {text: one for text, one in zip(rows().text, wanted, strict=True)}
    held = np.array([[text_of[text][names.index(name)] for name in outputs] for text in splits.report.inputs["text"]])
    assert splits.report.labels.tolist() == ["".join(map(str, map(int, row))) for row in held]
    evaluator = Evaluator(model, task, None, tmp_path / "cache", CPU)
    found = evaluator.evaluate({})
    logits = logits_of(model.source, splits.report.inputs["text"])
    assert found.answers.tolist() == ["".join(map(str, map(int, row > 0))) for row in logits]
    nats = np.where(held, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))).mean(axis=1)
    np.testing.assert_allclose(found.losses["losses"], nats, rtol=1e-4)
    expected = np.mean([f1_score(held[:, i], logits[:, i] > 0) for i in range(3)])
    assert evaluator.measure(found.answers)[1] == pytest.approx(100 * expected)
    other = found.answers.copy()
    other[0] = "".join("10"[int(one)] for one in other[0])
    assert stability(other, found.answers) == pytest.approx(100 * (1 - 1 / len(other)))
    assert np.isfinite(evaluator.statistics(frozenset({"his"}), 0, 5).his[next(iter(evaluator.sites))]).all()


def test_scores_agree_on_steps_of_their_own_scale_and_lose_their_squared_error(tmp_path):
    path = file(tmp_path, rows(label=lambda i: 10.0 + i % 7))
    task = TASKS["table"](train=path, kind="regression", scale=[10, 20])
    source = bert(tmp_path / "one", num_labels=1)
    model, task = fitted(Model(source=source), task, None)
    assert task.metric == "pearson" and model.checkpoint
    found = Evaluator(model, task, None, tmp_path / "cache", CPU).evaluate({})
    splits = task.load_checked(None, tmp_path)
    scores = logits_of(source, splits.report.inputs["text"])[:, 0]
    np.testing.assert_allclose(found.answers, (scores - 10) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.losses["losses"], (scores - splits.report.labels) ** 2, rtol=1e-4)
    expected = np.corrcoef(scores, splits.report.labels)[0, 1]
    assert quality("pearson", splits.report.labels, found.answers)[0] == pytest.approx(expected, rel=1e-4)


def test_columns_are_guessed_only_where_their_names_leave_no_doubt(tmp_path):
    frame = rows(label=lambda i: i % 2)
    pairs = frame.rename(columns={"text": "Premise"}).assign(hypothesis=frame.text, note="x")
    task = TASKS["table"](train=file(tmp_path, pairs, "pairs.csv"))
    splits = task.load_checked(None, tmp_path)
    assert list(splits.train.inputs) == ["text", "text_pair"]
    said = task.description(None)
    assert "inputs in 'Premise' and 'hypothesis', labels in 'label' (guessed: 'Premise', 'hypothesis', 'label')" in said
    assert "2 classes, reported: 0 4, 1 4; 27 to score heads (or train) on, 8 for choices, 8 reported." in said
    assert ", 3 reported." in replace(task, max_examples=3).description(None)
    odd = frame.rename(columns={"text": "words", "label": "kind"})
    with pytest.raises(HiesError, match=r"^task\.text is None; odd\.csv has the columns words, kind"):
        TASKS["table"](train=file(tmp_path, odd, "odd.csv")).load(None, tmp_path)
    assert "guessed: 'kind'" in TASKS["table"](train=str(tmp_path / "odd.csv"), text="words").description(None)


@pytest.mark.parametrize("inside", [True, False])
def test_images_come_from_files_beside_the_table_or_from_inside_it(tmp_path, inside):
    files = []
    for i in range(15):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 16 * i, np.uint8)).save(buffer, "PNG")
        (tmp_path / f"{i}.png").write_bytes(buffer.getvalue())
        files.append(buffer.getvalue())
    frame = pd.DataFrame(
        {"picture": files if inside else [f"{i}.png" for i in range(15)], "label": [i % 2 for i in range(15)]}
    )
    path = tmp_path / ("t.parquet" if inside else "t.csv")
    frame.to_parquet(path) if inside else frame.to_csv(path, index=False)
    task = TASKS["table"](train=str(path), image="picture")
    splits = task.load_checked(None, tmp_path)
    assert task.modality == "image"
    for file, label in zip(splits.train.inputs["image"], splits.train.labels, strict=True):
        assert files.index(file) % 2 == label


@pytest.mark.parametrize(("metric", "average"), [("f1_macro", "macro"), ("f1_weighted", "weighted")])
def test_mean_f1_is_over_the_classes_that_occur(metric, average):
    labels, answers = np.array([0, 0, 2, 2, 2, 3]), np.array([0, 2, 2, 2, 0, 2])
    each = {0: 2 * 1 / (2 + 2), 2: 2 * 2 / (3 + 4), 3: 0.0}
    weight = {"macro": {0: 1, 2: 1, 3: 1}, "weighted": {0: 2, 2: 3, 3: 1}}[average]
    expected = sum(each[one] * weight[one] for one in each) / sum(weight.values())
    assert quality(metric, labels, answers) == pytest.approx((expected, 100 * expected))


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    def call(module, *words):
        job_module._evaluators.clear()
        where = [f"cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/results", "wandb.mode=disabled"]
        monkeypatch.setattr("sys.argv", ["command", *where, *map(str, words)])
        status = module.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, [line for line in printed.err.splitlines() if line.startswith("error: ")]

    return call


def test_one_command_prunes_a_folder_on_a_table_and_trains_nothing(call, tmp_path):
    path = file(tmp_path, rows(label=lambda i: ["good", "bad"][i % 2]), "films.csv")
    source = bert(tmp_path / "bert", **named("bad", "good"))
    words = "model=any", f"model.source={source}", "calibration.size=8", "sparsity.ratio=0.3", "criterion=his"
    status, text, errors = call(prune, *words, "task=table", f"task.train={path}", f"out={tmp_path}/small")
    assert status == 0, errors
    assert text.startswith("films: train films.csv; report and selection drawn from train with task.data_seed=0; ")
    assert f"bert is not trained: {source} is taken for films as it is." in text
    assert "quality (accuracy)" in text and "\nloss " in text
    assert sum(map(len, hies.pruned_heads(hies.load_pruned(tmp_path / "small")).values())) == 5
    yaml = tmp_path / "conf" / "task" / "ours.yaml"  # the same from a file outside the repository
    yaml.parent.mkdir(parents=True)
    yaml.write_text(f"defaults: [/schema/task/table@_here_, _self_]\ntrain: {path}\nname: ours\n")
    status, _, errors = call(run, *words, "task=ours", "--config-dir", tmp_path / "conf")
    assert status == 0, errors
    (written,) = (tmp_path / "results").rglob("*.jsonl")
    (dense, pruned) = map(json.loads, written.read_text().splitlines())
    assert (dense["task"], dense["metric"], dense["examples"]) == ("ours", "accuracy", 8)
    assert pruned["heads_removed"] == 5 and not list((tmp_path / "cache").glob("checkpoints*"))


def test_a_slip_in_the_file_is_one_sentence_of_the_command(call, tmp_path):
    path = file(tmp_path, rows(label=lambda i: ["good", "bad", ""][i // 21]), "films.csv")
    source = bert(tmp_path / "bert", **named("bad", "good"))
    status, _, errors = call(run, "model=any", f"model.source={source}", "task=table", f"task.train={path}")
    assert status == 2 and errors == [
        "error: films.csv, row 43, column 'label': there is no label; mend the cell, or leave the row out."
    ]
