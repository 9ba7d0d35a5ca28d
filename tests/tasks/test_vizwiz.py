"""VizWiz-VQA: accuracy by its rule on hand-made cases, and the task on made-up files of the Hub's layout."""

import json
import random
import re
import string
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from omegaconf import OmegaConf
from visual_copy import random_llava, vizwiz_rows, write_llava, write_split

import hies
from experiments.config.messages import CONF
from hies.errors import HiesError
from hies.evaluation import metrics
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.models import Model
from hies.tasks import hub
from hies.tasks.vqa import accuracy as vqa
from hies.tasks.vqa import vizwiz
from hies.tasks.vqa.vizwiz import INSTRUCTION, VIZWIZ_REPOSITORY, VizWiz

# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Unanswerable", "unanswerable"),
        ("  The  Red\n Car.", "red car"),
        ("an apple", "apple"),
        ("a", ""),
        ("", ""),
        ("?!", ""),
        ("none", "0"),
        ("Ten", "10"),
        ("tennis", "tennis"),
        ("one hundred", "1 hundred"),
        ("100,978", "100978"),
        ("red, white,blue", "red white blue"),
        ("7,b", "7 b"),
        ("3.5 oz.", "3.5 oz"),
        ("Dr. Pepper", "dr pepper"),
        ("U.S.A.", "usa"),
        (".50", ".50"),
        ("yes...", "yes"),
        ("2:50 pm", "2:50 pm"),
        ("girl's", "girl's"),
        ("dont know", "don't know"),
        ("it's not", "it's not"),
        ("its colour", "its colour"),
        ("coca-cola", "coca cola"),
        ("black/white (striped)", "black white striped"),
        ("$5 & 10%", "$5 & 10%"),
        ("Café", "café"),
        ("the theatre", "theatre"),
    ],
)
def test_an_answer_without_what_does_not_count(answer, normal):
    assert vqa.normalized_answer(answer) == normal


def test_normalising_twice_changes_nothing():
    draw = random.Random(0)
    letters = "aA tThHeE onN09.,.,''::-/?$ \n" + string.punctuation
    for _ in range(3000):
        once = vqa.normalized_answer("".join(draw.choices(letters, k=draw.randint(0, 12))))
        assert vqa.normalized_answer(once) == once, once


def leave_one_out(prediction, answers):
    """The rule as it is printed."""
    parts = []
    for i in range(len(answers)):
        others = [vqa.normalized_answer(answer) for answer in answers[:i] + answers[i + 1 :]]
        parts.append(min(1, others.count(vqa.normalized_answer(prediction)) / 3))
    return sum(parts) / len(parts)


@pytest.mark.parametrize(
    ("same", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1), (9, 1), (10, 1)]
)  # of ten: 1 -> 9/10 of 1/3; 2 -> (2/3 * 8 + 1/3 * 2) / 10; 3 -> (7 + 3 * 2/3) / 10
def test_an_answer_of_some_of_ten_people_is_worth(same, worth):
    answers = ["The cat."] * same + [f"other {i}" for i in range(10 - same)]
    assert vqa.agreement_with_people("cat", answers) == pytest.approx(worth)
    assert vqa.agreement_with_people("dog", answers) == 0


def test_agreement_is_the_printed_rule_for_any_number_of_answers():
    draw = random.Random(1)
    for _ in range(500):
        answers = draw.choices(["yes", "Yes.", "no", "unanswerable", "2", "two"], k=draw.randint(1, 12))
        prediction = draw.choice(["yes", "no", "Unanswerable", "two", "", "maybe"])
        assert vqa.agreement_with_people(prediction, answers) == pytest.approx(leave_one_out(prediction, answers))


def test_degenerate_answers():
    assert vqa.agreement_with_people("unanswerable", ["unanswerable"] * 10) == 1  # counts as an answer
    assert vqa.agreement_with_people("", ["unanswerable"] * 10) == 0
    assert vqa.agreement_with_people("yes", ["yes"]) == 0  # nobody is left to agree with
    with pytest.raises(HiesError, match="no people's answers"):
        vqa.agreement_with_people("yes", [])


def test_the_metric_is_the_mean_over_the_examples():
    labels = np.array([json.dumps(answers) for answers in (["a cat"] * 10, ["no"] * 2 + ["yes"] * 8, ["3"] * 10)])
    predictions = np.array(["cat", "no", "4"])
    assert metrics.quality("vqa", labels, predictions) == pytest.approx((1.6 / 3, 160 / 3))
    assert metrics.stability(predictions, np.array(["cat", "no", "3"])) == pytest.approx(200 / 3)


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(vizwiz, "FOR_CALIBRATION", 7)
    monkeypatch.setattr(vizwiz, "FOR_SELECTION", 3)
    for name in ("split_files", "split_identity"):  # tests write to one folder more than once
        getattr(hub, name).cache_clear()


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return write_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def copy(tmp_path):
    write_split(tmp_path, VIZWIZ_REPOSITORY, "val", vizwiz_rows(23), files=2)
    return tmp_path


def same(split, rows):
    """Whether a split has exactly these rows."""
    return (
        split.inputs["image"] == [image["bytes"] for image in rows["image"]]
        and split.inputs["question"] == [f"{question}\n{INSTRUCTION}" for question in rows["question"]]
        and [json.loads(label) for label in split.labels] == [list(answers) for answers in rows["answers"]]
    )


def test_without_a_training_split_the_beginning_of_the_validation_split_is_left_out(copy):
    splits, rows = VizWiz().load(copy, copy), vizwiz_rows(23)
    assert same(splits.train, rows[:7]) and same(splits.selection, rows[7:10]) and same(splits.report, rows[10:])
    assert VizWiz().notes(copy) == {"calibration_source": "val[:7]"}


def test_with_a_training_split_the_validation_split_is_reported_whole(copy):
    train = vizwiz_rows(31, seed=1)
    write_split(copy, VIZWIZ_REPOSITORY, "train", train, files=3)
    splits = VizWiz().load(copy, copy)
    assert same(splits.train, train[:7]) and same(splits.selection, train[7:10])
    assert same(splits.report, vizwiz_rows(23))
    assert VizWiz().notes(copy) == {"calibration_source": "train[:7]"}


def test_files_that_are_not_needed_are_not_read(copy):
    rows = vizwiz_rows(23)
    (copy / VIZWIZ_REPOSITORY / "data" / "val-00001-of-00002.parquet").write_bytes(b"not a parquet file")
    train, selection = vizwiz.holdout(copy)
    assert same(train, rows[:7]) and same(selection, rows[7:10])
    with pytest.raises(HiesError, match=r"split 'val' of lmms-lab/VizWiz-VQA cannot be read"):
        VizWiz().load(copy, copy)


def test_the_identity_is_that_of_the_files_wherever_they_lie(copy, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    rows = vizwiz_rows(23)
    write_split(other, VIZWIZ_REPOSITORY, "val", rows, files=2)
    assert VizWiz().identity(copy) == VizWiz(max_examples=3).identity(other)
    rows.at[22, "answers"] = [*rows.at[22, "answers"][:9], "other"]
    changed = tmp_path_factory.mktemp("changed")
    write_split(changed, VIZWIZ_REPOSITORY, "val", rows, files=2)
    assert VizWiz().identity(changed) != VizWiz().identity(copy)


def with_answers(answers):
    return vizwiz_rows(23).assign(answers=[answers] * 23)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (vizwiz_rows(23).drop(columns="answers"), r"has the columns question_id, .*, but answers is read"),
        (vizwiz_rows(23).rename(columns={"question": "q"}), r"but question is read"),
        (with_answers(None), r"column 'answers'.*holds 'None'"),
        (with_answers([]), r"column 'answers'"),
        (with_answers("yes"), r"column 'answers'.*holds 'yes' where the texts of ten answers"),
        (vizwiz_rows(23).assign(image=[{"path": "0.png"}] * 23), r"Row 0 of .* holds no image"),
        (with_answers([{"answer": "yes"}]), r"column 'answers'.*where the texts of ten answers"),
        (vizwiz_rows(10), r"has 10 rows, but its first 10 are for calibration"),
    ],
    ids=["no answers", "other name", "none", "empty", "text", "no image", "objects", "too few"],
)
def test_other_files_are_one_sentence(tmp_path, rows, words):
    write_split(tmp_path, VIZWIZ_REPOSITORY, "val", rows)
    with pytest.raises(HiesError, match=words) as raised:
        VizWiz().load(tmp_path, tmp_path)
    assert "\n" not in str(raised.value)


def test_missing_files_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HiesError, match=r"lmms-lab/VizWiz-VQA is not here.*data_root"):
        VizWiz().identity(tmp_path)
    (tmp_path / VIZWIZ_REPOSITORY).mkdir(parents=True)
    hub.split_files.cache_clear()
    with pytest.raises(HiesError, match=r"no parquet files of its split 'val'"):
        VizWiz().load(tmp_path, tmp_path)


def test_a_split_is_what_its_name_begins_with_alone(copy):
    write_split(copy, VIZWIZ_REPOSITORY, "validated", vizwiz_rows(5))
    assert len(hub.read_split(VIZWIZ_REPOSITORY, "val", ("question",), copy)) == 23


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_documented_form_with_and_without_a_chat_template(copy):
    _, processor = random_llava()
    task, split = VizWiz(), VizWiz().load(copy, copy).train
    target = split.labels[0]
    features = [task.encode(split, processor, 128).features[0]]
    processor.chat_template = None
    features.append(task.encode(split, processor, 128).features[0])
    assert all(torch.equal(features[0][name], features[1][name]) for name in features[0])
    answers = json.loads(target)
    said = processor.tokenizer.decode(features[0]["input_ids"][features[0]["labels"] != -100])
    most = max(answers, key=answers.count)
    assert task.target(target) == most and said.endswith("</s>")
    assert features[0]["pixel_values"].shape == (3, 8, 8)  # resized to what the model reads


def test_ties_go_to_the_first_answer():
    assert VizWiz().target(json.dumps(["b", "a", "a", "b", "c"])) == "b"


def test_the_loop_scores_prunes_and_answers_in_normalised_words(copy, llava, tmp_path, monkeypatch):
    monkeypatch.setattr(VizWiz, "max_new_tokens", 5)
    model = Model(modality="vision_language", source=str(llava), sites="language_model", batch_size=4)
    bench = Evaluator(model, VizWiz(max_examples=11), copy, tmp_path / "cache", torch.device("cpu"))
    whole = bench.predictions({})
    assert len(whole) == 11 and all(vqa.normalized_answer(answer) == answer for answer in whole)
    assert len(set(whole)) > 3
    rows = vizwiz_rows(23)[10:21]
    expected = [leave_one_out(answer, list(given)) for answer, given in zip(whole, rows["answers"], strict=True)]
    assert bench.quality({}, "report") == pytest.approx(100 * np.mean(expected))
    statistics = bench.statistics(frozenset({"his"}), 0, 5)
    assert all("language_model" in site and (his > 0).all() for site, his in statistics.his.items())
    removed = {site: [0, 2] for site in statistics.his}
    pruned = bench.evaluate(removed)
    assert (pruned.answers != whole).any() and pruned.cost.parameters < bench.cost.dense.parameters
    bench.remove = True
    assert (bench._pruned_answers(bench.network, removed, "report", None)["predictions"] == pruned.answers).all()


def test_the_7b_shape_has_1024_heads_in_its_language_model():
    with torch.device("meta"):
        model = tf.LlavaForConditionalGeneration(tf.LlavaConfig())  # LLaVA-1.5 7B's sizes
    pattern = OmegaConf.load(CONF / "model" / "llava_1_5_7b.yaml").sites
    attention = [name for name, _ in model.named_modules() if name.endswith("self_attn")]
    chosen = [name for name in attention if re.search(pattern, name)]
    sites = hies.find_sites(model, {"input_ids": torch.zeros(1, 5, dtype=torch.int64, device="meta")})
    assert list(sites) == chosen and [site.heads for site in sites.values()] == [32] * 32
    assert len([name for name in attention if re.search("vision", name)]) == 24 == len(attention) - 32


def test_prepared_images_are_not_kept(copy, llava):
    model = Model(modality="vision_language", source=str(llava))
    bench = Evaluator(model, VizWiz(), copy, copy / "cache", torch.device("cpu"))
    encoded = bench.encoded("report")
    one, two = encoded.features[3], encoded.features[3]
    assert one["pixel_values"] is not two["pixel_values"] and torch.equal(one["pixel_values"], two["pixel_values"])
    lengths = [encoded.length(i) for i in range(len(encoded))]
    assert len(set(lengths)) > 1 and lengths == [len(encoded.features[i]["input_ids"]) for i in range(len(encoded))]
    order = np.concatenate([indices for indices, _ in encoded.batches(4, torch.device("cpu"))])
    assert all(lengths[a] <= lengths[b] for a, b in pairwise(order))


def test_frames_are_of_the_columns_asked_for(copy):
    rows = hub.read_split(VIZWIZ_REPOSITORY, "val", ("question",), copy, first=4)
    assert isinstance(rows, pd.DataFrame) and list(rows.columns) == ["question"] and len(rows) == 4
