"""GLUE from a folder of the Hub's layout: splits that never overlap, labels, errors, identities."""

from pathlib import Path

import numpy as np
import pytest
from glue_copy import ROWS, write_copy

from hies.errors import HiesError
from hies.evaluation.metrics import METRICS
from hies.tasks import TASKS, hub
from hies.tasks.glue import GLUE_TASKS, _halves

SIZES = {"cola": (522, 521), "mrpc": (204, 204), "rte": (139, 138), "stsb": (750, 750)}  # paper, table 5


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for function in (hub.frames, hub.identity):
        function.cache_clear()


@pytest.mark.parametrize("kind", GLUE_TASKS, ids=lambda kind: kind.name)
def test_the_three_splits_share_no_example_and_lose_none(kind, tmp_path):
    splits = kind().load(write_copy(tmp_path, kind), tmp_path)
    parts = [set(split.inputs["text"]) for split in (splits.train, splits.selection, splits.report)]
    assert [len(part) for part in parts] == [len(split) for split in (splits.train, splits.selection, splits.report)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    if kind.name in SIZES:
        assert (len(splits.report), len(splits.selection)) == SIZES[kind.name] and len(splits.train) == 400
    elif kind.selection == "train":
        assert (len(splits.report), len(splits.selection), len(splits.train)) == (211, 40, 360)
    else:
        assert (len(splits.report), len(splits.selection), len(splits.train)) == (211, 97, 400)


@pytest.mark.parametrize("kind", GLUE_TASKS, ids=lambda kind: kind.name)
def test_texts_and_labels_stay_together(kind, tmp_path):
    splits = kind().load(write_copy(tmp_path, kind), tmp_path)
    assert ("text_pair" in splits.train.inputs) == (len(kind.columns) == 2)
    for split in (splits.train, splits.selection, splits.report):
        numbers = [int(text.split()[-1]) for text in split.inputs["text"]]
        if kind.labels:
            assert split.labels.dtype == np.int64
            assert split.labels.tolist() == [number % len(kind.labels) for number in numbers]
        else:
            assert split.labels.dtype == np.float32 and np.corrcoef(split.labels, numbers)[0, 1] > 0.999
        for column, name in zip(kind.columns, ("text", "text_pair"), strict=False):
            assert all(f" {column} " in text for text in split.inputs[name])


def test_the_recorded_halves_have_the_papers_sizes():
    for name, (report, selection) in SIZES.items():
        half = _halves()[name]
        assert half == sorted(set(half)) and len(half) == selection
        assert half[0] >= 0 and half[-1] < ROWS[name] and ROWS[name] - selection == report
        assert 0.4 < np.mean(np.array(half) < ROWS[name] / 2) < 0.6  # drawn, not cut off


def test_the_eight_tasks_are_known_by_name_and_have_a_metric():
    assert [kind.name for kind in GLUE_TASKS] == ["sst2", "cola", "mrpc", "qqp", "stsb", "qnli", "mnli", "rte"]
    assert all(TASKS[kind.name] is kind and kind.metric in METRICS for kind in GLUE_TASKS)


def test_the_identity_follows_the_content_and_not_the_place(tmp_path):
    kind = TASKS["rte"]
    here = kind().identity(write_copy(tmp_path / "a", kind))
    assert kind().identity(write_copy(tmp_path / "b", kind)) == here
    assert kind().identity(write_copy(tmp_path / "c", kind, mark="x")) != here
    assert kind().identity(write_copy(tmp_path / "d", kind, train=401)) != here


def test_without_a_copy_and_without_the_hub_the_error_says_how_to_get_either(tmp_path):
    for root in (None, tmp_path):
        with pytest.raises(HiesError, match=r"data_root .*HIES_DATA.* nyu-mll/glue/, or connect to the Hub"):
            TASKS["rte"]().load(root, tmp_path)
    with pytest.raises(HiesError, match=r"data_root is .*; name a folder"):
        TASKS["rte"]().load(Path("/no/such/folder"), tmp_path)


def test_a_broken_copy_is_named(tmp_path):
    root = write_copy(tmp_path, TASKS["rte"])
    next(root.rglob("train*")).write_bytes(b"not parquet")
    with pytest.raises(HiesError, match="cannot be read from there"):
        TASKS["rte"]().load(root, tmp_path)
