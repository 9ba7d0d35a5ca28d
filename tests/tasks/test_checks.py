"""Labels, texts and images that are none: refused with split, row and value, in every task, and never a number."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from glue_copy import write_copy
from language_copy import copy_of, made_up, mmlu_tables, write

from hies.errors import HiesError
from hies.tasks import TASKS, Digits, Split, hub
from hies.tasks.checks import check_columns, class_labels, score_labels, text_labels
from hies.tasks.classifier import encode
from hies.tasks.embedded.digits import DigitQuestions


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for function in (hub.frames, hub.identity):
        function.cache_clear()


def changed(root, kind, split, **cells):
    """A made-up copy of a GLUE task with other cells in row 17 of a split."""
    (path,) = write_copy(root, kind).rglob(f"{split}-*.parquet")
    rows = pd.read_parquet(path)
    for column, value in cells.items():
        rows[column] = [value if row == 17 else cell for row, cell in enumerate(rows[column])]
        if isinstance(value, bytes):
            rows[column] = [cell if isinstance(cell, bytes) else cell.encode() for cell in rows[column]]
    rows.to_parquet(path)
    if cells.get("label") == 0.5:  # the splits of a data set have columns of one type
        for other in root.rglob("*.parquet"):
            pd.read_parquet(other).astype({"label": float}).to_parquet(other)
    return root


@pytest.mark.parametrize(
    ("name", "split", "cells", "said"),
    [
        ("rte", "validation", {"label": -1}, "the label -1, but its classes go from 0 to 1;"),
        ("sst2", "train", {"label": None}, "the label nan, "),
        ("mnli", "validation_mismatched", {"label": 0.5}, "the label 0.5, but its classes go from 0 to 2;"),
        ("qnli", "validation", {"label": 7}, "the label 7,"),
        ("cola", "train", {"label": 2}, "the label 2,"),
        ("stsb", "validation", {"label": float("nan")}, "the label nan, but scores are from 0 to 5;"),
        ("stsb", "train", {"label": -1.0}, "the label -1.0,"),
        ("stsb", "validation", {"label": float("inf")}, "the label inf,"),
        ("mrpc", "validation", {"sentence2": None}, "(None|nan) in 'text_pair', where text should be"),
        ("qqp", "train", {"question1": float("nan")}, "nan in 'text', where text should be"),
    ],
)
def test_a_cell_that_is_none_is_named_with_split_row_and_value(tmp_path, name, split, cells, said):
    root = changed(tmp_path, TASKS[name], split, **cells)
    with pytest.raises(HiesError, match=rf"^Row 17 of the split '{split}' of nyu-mll/glue \({name}\) has {said}"):
        TASKS[name]().load(root, tmp_path)


def test_bytes_are_no_text(tmp_path):
    root = changed(tmp_path, TASKS["rte"], "train", sentence1=b"abc")
    with pytest.raises(HiesError, match=r"^Row 0 of the split 'train' .* has b'train sentence1 0' in 'text'"):
        TASKS["rte"]().load(root, tmp_path)


def test_a_column_that_is_not_there_is_named(tmp_path):
    for path in write_copy(tmp_path, TASKS["rte"]).rglob("*.parquet"):
        pd.read_parquet(path).drop(columns="label").to_parquet(path)
    for method in (TASKS["rte"]().identity, lambda root: TASKS["rte"]().load(root, root)):
        with pytest.raises(HiesError, match="no split 'train' with the column 'label', which task=rte needs"):
            method(tmp_path)


@pytest.mark.parametrize(
    ("name", "cells", "said"),
    [
        ("hellaswag", {"label": ""}, "of the report split is no document that lm-eval's hellaswag"),
        ("winogrande", {"answer": ""}, "of the report split is no document"),
        ("arc_easy", {"answerKey": "Z"}, "of the report split is no document"),
        ("piqa", {"label": 2}, r"of the report split .*no right answer among its 2 options: 2"),
        ("piqa", {"goal": None}, "of the split 'validation' of ybisk/piqa has (None|nan) in 'goal', where text should"),
        ("gsm8k", {"question": None}, "of the split 'test' of openai/gsm8k has (None|nan) in 'question'"),
        ("mmlu", {"choices": ["a", None, "b", "c"]}, "of the split 'test' of cais/mmlu has None in 'choices'"),
        ("mmlu", {"answer": -1}, r"of the report split .*no right answer among its 4 options: -1"),
    ],
)
def test_a_document_without_an_answer_or_a_text_is_named(tmp_path, name, cells, said):
    kind = TASKS[name]
    tables = mmlu_tables() if name == "mmlu" else made_up(name, ["train", kind.reported])
    rows = tables[kind.reported]
    for column, value in cells.items():
        rows[column] = [value if row == 7 else cell for row, cell in enumerate(rows[column])]
    root = write(tmp_path, kind.repository, {"all" if name == "mmlu" else kind.config: tables})
    with pytest.raises(HiesError, match=f"^Row 7 {said}"):
        kind().load(root, root)


def test_an_answer_without_a_word_is_none(tmp_path):
    rows = made_up("gsm8k", ["train", "test"])
    rows["test"].loc[7, "answer"] = ""
    task = TASKS["gsm8k"]()
    root = write(tmp_path, task.repository, {"main": rows})
    with pytest.raises(HiesError, match=r"^Row 7 of the report split of task=gsm8k has the label '', but answers are"):
        task.load_checked(root, root)
    assert len(TASKS["gsm8k"]().load_checked(copy_of(tmp_path / "whole", "gsm8k"), root).report) == 23


class Own(Digits):
    """Digits with something else in row 3 of a split."""

    changes: ClassVar = {}

    def load(self, data_root, cache_dir):
        splits = super().load(data_root, cache_dir)
        return replace(splits, **{name: change(getattr(splits, name)) for name, change in self.changes.items()})


def with_label(value):
    def changed(split):
        labels = [value if row == 3 else label for row, label in enumerate(split.labels.tolist())]
        return Split(split.inputs, np.array(labels, dtype=object))

    return changed


def with_pixel(split):
    pixels = split.inputs["pixel_values"].copy()
    pixels[3, 0, 2, 2] = np.nan
    return Split({"pixel_values": pixels}, split.labels)


@pytest.mark.parametrize("split", ["train", "selection", "report"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        *((with_label(value), f"Row 3 .* has the label {value!r}, ") for value in (-1, 10, 0.5, None, "4", b"4")),
        (with_label(float("nan")), "Row 3 .* has the label nan, "),
        (with_pixel, "Row 3 .* has values in 'pixel_values' that are no numbers"),
        (lambda split: Split(split.inputs, split.labels[:-1]), "The column 'pixel_values' .* has"),
        (lambda split: Split(split.inputs, split.labels[:, None]), r"The labels .* have the shape \(\d+, 1\)"),
    ],
)
def test_every_split_of_a_task_of_ones_own_is_checked(tmp_path, monkeypatch, split, change, said):
    monkeypatch.setattr(Own, "changes", {split: change})
    with pytest.raises(HiesError, match=said.replace(".*", f"of the {split} split of task=digits", 1)):
        Own().load_checked(None, tmp_path)


def test_whole_numbers_of_any_type_are_classes_and_a_report_without_examples_is_refused(tmp_path, monkeypatch):
    expected = Digits().load_checked(None, tmp_path).report.labels
    for kind in (np.float64, np.uint8, object):
        as_kind = {"report": lambda split, kind=kind: Split(split.inputs, split.labels.astype(kind))}
        monkeypatch.setattr(Own, "changes", as_kind)
        labels = Own().load_checked(None, tmp_path).report.labels
        assert labels.dtype == np.int64 and np.array_equal(labels, expected)
    monkeypatch.setattr(Own, "changes", {"report": lambda split: split.take([])})
    with pytest.raises(HiesError, match="The report split of task=digits has no example"):
        Own().load_checked(None, tmp_path)


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        ({"image": [b"", b"x"], "question": ["a", "b"]}, ["y", "n"], "Row 0 of here has b'' in 'image'"),
        ({"image": [b"x", "x"], "question": ["a", "b"]}, ["y", "n"], "Row 1 of here has 'x' in 'image'"),
        ({"image": [b"x", b"x"], "question": ["a", None]}, ["y", "n"], "Row 1 of here has None in 'question'"),
        ({"image": [b"x", b"x"], "question": ["a", "b"]}, ["y", None], "Row 1 of here has the label None"),
    ],
)
def test_questions_about_images_are_checked(inputs, labels, said):
    with pytest.raises(HiesError, match=said):
        DigitQuestions().checked(Split(inputs, np.array(labels, dtype=object)), "here")


def test_labels_that_may_only_be_read_are_copied_without_a_warning(recwarn):
    labels, pixels = np.arange(3), np.zeros((3, 1, 2, 2), np.float32)
    labels.flags.writeable = pixels.flags.writeable = False
    encoded = encode(Split({"pixel_values": pixels}, labels), None, 5)
    assert not recwarn.list and encoded.batch([0, 2])["labels"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: class_labels([[1], [1, 2]], 2, "train"), r"Row 0 of train has the label \[1\]"),
        (lambda: score_labels([10**400], (0, 5), "train"), "Row 0 of train has the label 1000"),
        (lambda: text_labels(None, "train"), "The labels of train are None"),
        (lambda: check_columns({"a": np.array([1.0, 2.0])}, 2, "train", (str,)), "Row 0 of train has 1.0 in 'a'"),
    ],
)
def test_odd_labels_and_columns_are_refused_in_words(check, said):
    with pytest.raises(HiesError, match=said):
        check()
