"""Caches, metrics, batches and checkpoints: the plumbing that must not lose or bend a number."""

import fnmatch
import multiprocessing
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from hies.batching import Encoded
from hies.errors import HiesError
from hies.evaluation import metrics
from hies.evaluation.checkpoints import TaskModel
from hies.evaluation.models import IDENTIFYING, Model, identity_of
from hies.storage import cached, digest, read_arrays, replacing, write_arrays
from hies.tasks.classifier import encode
from hies.tasks.splits import Split


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_a_folder_replaces_a_folder_and_leaves_nothing_on_failure(tmp_path):
    path = tmp_path / "checkpoint"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text(text)
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("third")
        raise RuntimeError
    assert (path / "weights").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def _count(folder):
    def build():
        with (folder / "log").open("a") as log:
            log.write("built\n")
        return {"x": np.arange(3)}

    return cached(folder / "value.npz", build, write_arrays, read_arrays)["x"].tolist()


def test_processes_that_ask_together_compute_once(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_count, [tmp_path] * 8) == [[0, 1, 2]] * 8
    assert (tmp_path / "log").read_text() == "built\n"


def test_what_was_read_first_is_whole_or_not_there(tmp_path):
    model = SimpleNamespace(cache_dir=tmp_path, task=SimpleNamespace(name="toy"))
    with pytest.raises(TypeError):
        TaskModel._first_read(model, "name", None)  # stopped while it writes, and another process looks
    assert [TaskModel._first_read(model, "name", digest) for digest in ("a", "b")] == ["a", "a"]


def test_equal_values_have_equal_digests():
    assert digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1}) != digest({"a": [2], "b": 2})
    with pytest.raises(ValueError):
        digest({"a": float("nan")})


def test_quality_and_stability_by_hand():
    labels, predictions = np.array([0, 1, 2, 2, 1]), np.array([0, 1, 1, 2, 0])
    value, quality = metrics.quality("accuracy", labels, predictions)
    assert (value, quality) == (pytest.approx(0.6), pytest.approx(60.0))
    assert metrics.stability(predictions, np.array([0, 1, 1, 0, 0])) == pytest.approx(80.0)
    assert metrics.stability(np.array([1.4, 2.6]), np.array([1.1, 2.4])) == pytest.approx(50.0)


def test_batches_hold_every_example_once_whatever_their_size():
    rows = [{"input_ids": torch.arange(1, n + 1), "labels": torch.tensor(n)} for n in (5, 2, 7, 3, 2)]
    examples = Encoded(rows, {"input_ids": 9})
    for size in (1, 2, 3, 5, 8):
        seen = []
        for indices, batch in examples.batches(size, torch.device("cpu")):
            for index, ids, label in zip(indices, batch["input_ids"], batch["labels"], strict=True):
                assert ids.tolist() == [*range(1, label + 1)] + [9] * (len(ids) - label)
                assert int(label) == int(rows[index]["labels"])
            seen += indices.tolist()
        assert sorted(seen) == [0, 1, 2, 3, 4]


def test_images_are_taken_as_they_are():
    pixels = np.random.default_rng(0).normal(size=(3, 1, 5, 5)).astype(np.float32)
    examples = encode(Split({"pixel_values": pixels}, np.array([1, 0, 2])), None, 2)
    batch = examples.batch([2, 0])
    torch.testing.assert_close(batch["pixel_values"], torch.from_numpy(pixels[[2, 0]]))
    assert batch["labels"].tolist() == [2, 1]


def test_a_split_takes_examples_in_the_order_asked_for():
    split = Split({"text": ["a", "b", "c"], "x": np.array([1, 2, 3])}, np.array([7, 8, 9]))
    taken = split.take([2, 0])
    assert (taken.inputs["text"], taken.inputs["x"].tolist(), taken.labels.tolist()) == (["c", "a"], [3, 1], [9, 7])


def test_a_folder_is_identified_by_its_content_and_a_hub_name_without_a_commit_by_itself(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert identity_of(str(tmp_path / "one")) == identity_of(str(tmp_path / "two"))
    (tmp_path / "two" / "config.json").write_text("{ }")
    seen = {identity_of(str(tmp_path / "one")), identity_of(str(tmp_path / "two"))}
    names = ("tokenizer.model", "spiece.model", "special_tokens_map.json", "generation_config.json")
    for name in names:  # texts are cut, and answers written, as these say
        (tmp_path / "two" / name).write_text("{}")
        seen.add(identity_of(str(tmp_path / "two")))
    assert len(seen) == 2 + len(names)
    (tmp_path / "one" / "generation_config.json").write_text('{\n  "_from_model_config": true,\n  "eos_token_id": 2\n}')
    assert identity_of(str(tmp_path / "one")) in seen  # it says what config.json does
    assert identity_of("org/name") == "org/name"


@pytest.mark.parametrize(
    "options, word",
    [
        ({"modality": "sound", "source": "x"}, "sound"),
        ({}, "source is None"),
        ({"source": "x", "max_length": 1}, "max_length"),
    ],
)
def test_a_model_that_cannot_be_is_refused(options, word):
    with pytest.raises(HiesError, match=word):
        Model(**options)


def test_weights_that_are_not_there_are_named():
    from transformers import AutoModelForSequenceClassification

    from hies.evaluation.networks import load_weights

    with pytest.raises(HiesError, match=r"no-such-org/no-such-model.*local folder"):
        load_weights(AutoModelForSequenceClassification, "no-such-org/no-such-model")


def test_every_file_that_a_tokenizer_of_transformers_reads_is_part_of_an_identity():
    files = (Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py")
    declared = [re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", file.read_text(), re.DOTALL) for file in files]
    names = {name for blocks in declared for block in blocks for name in re.findall(r':\s*\[?"([^"]+)"', block)}
    assert len(names) > 20
    assert not [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in IDENTIFYING)]
