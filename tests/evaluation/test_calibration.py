"""Which examples heads are scored on: unseen ones, those of another task, random words, and the model's own labels."""

from dataclasses import replace
from types import SimpleNamespace

import glue_copy
import numpy as np
import pytest

from experiments.config.schema import CalibrationSet
from hies.errors import ParameterError
from hies.evaluation.calibration import CalibrationSource, with_random_words
from hies.tasks import TASKS, Docs, Split, Splits
from hies.tasks.embedded.docs import Passage, as_passages
from hies.tasks.glue import GLUE_TASKS

KINDS = {kind.name: kind for kind in GLUE_TASKS}
PAIRS = Split(
    {"text": [f"a{i} b{i} c{i}" for i in range(13)], "text_pair": [f"d{i}" for i in range(13)]}, np.arange(13) % 2
)


def evaluator_on(root, **options):
    """What a source asks an evaluator for; its model answers 1 to everything."""
    answered = SimpleNamespace(calls=[])

    def with_own_labels(examples):
        answered.calls.append(examples)
        return replace(examples, labels=np.ones(len(examples), dtype=np.int64))

    splits = Splits(PAIRS, PAIRS.take([2, 3, 5]), PAIRS.take([7]))
    task = TASKS["cola"]()
    return SimpleNamespace(
        task=task, splits=splits, data_root=root, cache_dir=root, with_own_labels=with_own_labels, **options
    )


def test_the_papers_examples_are_drawn_as_ever_and_have_no_name_of_their_own(tmp_path):
    source, evaluator = CalibrationSource(), evaluator_on(tmp_path)
    chosen = np.random.default_rng(4).permutation(13)[:5]
    drawn = source.drawn(evaluator, seed=4, size=5)
    assert drawn.inputs == PAIRS.take(chosen).inputs and (drawn.labels == PAIRS.labels[chosen]).all()
    assert source.key(evaluator) == [] and CalibrationSet(size=7).identity(tmp_path) == {"size": 7}


def test_unseen_examples_are_those_of_the_selection_split(tmp_path):
    source = CalibrationSet("selection", "model")
    drawn = source.drawn(evaluator_on(tmp_path), seed=0, size=3)
    assert sorted(drawn.inputs["text"]) == ["a2 b2 c2", "a3 b3 c3", "a5 b5 c5"] and drawn.labels.tolist() == [1, 1, 1]
    assert source.identity(tmp_path) == {"size": 32, "examples": "selection", "labels": "model"}
    assert source.key(evaluator_on(tmp_path)) == [{"examples": "selection", "labels": "model"}]


def test_random_words_keep_the_number_of_words_and_come_from_the_pool():
    examples = PAIRS.take([1, 4])
    found = with_random_words(examples, PAIRS, seed=3)
    pool = {word for name in PAIRS.inputs for text in PAIRS.inputs[name] for word in text.split()}
    for name in PAIRS.inputs:
        lengths = [[len(text.split()) for text in one.inputs[name]] for one in (examples, found)]
        assert lengths[0] == lengths[1] and {word for text in found.inputs[name] for word in text.split()} <= pool
    assert found.inputs != examples.inputs
    assert found.inputs == with_random_words(examples, PAIRS, 3).inputs != with_random_words(examples, PAIRS, 5).inputs


def test_texts_of_another_task_are_its_training_texts_and_part_of_every_name(tmp_path):
    glue_copy.write_copy(tmp_path, KINDS["sst2"])
    source, evaluator = CalibrationSource("sst2", "model"), evaluator_on(tmp_path)
    theirs = TASKS["sst2"]().load_checked(tmp_path, tmp_path).train
    drawn = source.drawn(evaluator, seed=1, size=3)
    assert {*drawn.inputs["text"]} <= {*theirs.inputs["text"]} and [*drawn.inputs] == ["text"]
    assert drawn.labels.tolist() == [1, 1, 1]
    identity = source.identity(tmp_path)
    assert identity["texts"] == TASKS["sst2"]().fingerprint(tmp_path)
    assert source.key(evaluator)[1] != CalibrationSource("words", "model").key(evaluator)
    several = replace(evaluator.splits, train=Split(PAIRS.inputs, np.array(["011"] * 13)))  # a label for each of three
    evaluator.splits = several
    assert {*source.pool(evaluator).labels.tolist()} == {"011"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"examples": "report"}, "examples is 'report'; use train, selection, words or the name of a task"),
        ({"examples": "words"}, "labels is 'data'; words brings no labels of this task; use 'model'"),
        ({"examples": "sst2"}, "labels is 'data'; sst2 brings no labels"),
        ({"labels": "mine"}, "labels is 'mine'; use data or model"),
    ],
)
def test_examples_and_labels_that_there_are_not(options, says):
    with pytest.raises(ParameterError, match=says):
        CalibrationSource(**options)


@pytest.mark.parametrize(
    ("task", "examples", "says"),
    [
        ("digits", "words", "task=digits takes no texts of others; use train or selection"),
        ("cola", "cifar10", "task=cola takes no texts of others"),
        ("cola", "cola", "examples is 'cola'; these are the task's own; use train"),
        ("stsb", "train", "labels is 'model'; to its own scores a model of task=stsb has no error"),
        ("text", "train", "labels is 'model'; the loss of task=text is that of the text itself"),
    ],
)
def test_what_a_task_does_not_allow(task, examples, says):
    with pytest.raises(ParameterError, match=says):
        CalibrationSource(examples, "model").check(TASKS[task]())
    CalibrationSource().check(TASKS[task]())


def test_a_model_that_has_nothing_to_choose_among_gives_no_labels_which_is_said_before_it_is_made():
    examples = as_passages([Passage("a b", "c", "file")] * 3)
    without_model = SimpleNamespace(task=Docs(), splits=SimpleNamespace(train=examples))
    with pytest.raises(ParameterError, match="labels is 'model'; the examples of task=docs have one option each"):
        CalibrationSource(labels="model").pool(without_model)
    assert CalibrationSource().pool(without_model) is examples
