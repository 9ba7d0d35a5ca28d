"""The eight GLUE tasks of the paper, from the Hub repository nyu-mll/glue or a local copy of it.

The reported split and the selection split never overlap (paper, table 5). Where GLUE's validation set is large, it is
reported whole and 1,000 training examples are set aside for selection; where it is small, its two halves are used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hies.errors import HiesError
from hies.storage import digest
from hies.tasks import hub
from hies.tasks.base import SET_ASIDE, ClassifierTask, declare
from hies.tasks.splits import Split, Splits

if TYPE_CHECKING:
    import pandas as pd

GLUE_REPOSITORY = "nyu-mll/glue"
HALVES = Path(__file__).with_name("glue_halves.json")  # drawn once; rows of the validation set that are for selection


@dataclass(frozen=True)
class Glue(ClassifierTask):
    """One GLUE task; a subclass declares its columns and labels, its metric, and where its splits come from.

    Attributes:
        columns: one text column, or two of a pair.
        labels: the classes in the order of the data set's indices; none for a regression task.
        reported: the split of the data set that is reported.
        selection: a split of the data set, or `train` (some of its examples), or `reported` again (half of it).
    """

    modality: ClassVar[str] = "text"
    columns: ClassVar[tuple[str, ...]]
    labels: ClassVar[tuple[str, ...]]
    reported: ClassVar[str] = "validation"
    selection: ClassVar[str] = "train"

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the classes; none for STS-B."""
        return self.labels

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the splits in use and of how they are divided."""
        names = tuple(sorted(self._frames(data_root)))
        content = hub.identity(GLUE_REPOSITORY, self.name, data_root, names)
        return digest([content, self.selection, SET_ASIDE if self.selection == "train" else self._half()])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns all labelled examples, divided into the three splits."""
        frames = self._frames(data_root)
        whole = {name: self._split(name, rows) for name, rows in frames.items()}
        train, report = whole["train"], whole[self.reported]
        if self.selection == "train":
            held_out = np.linspace(0, len(train) - 1, min(SET_ASIDE, len(train) // 10)).astype(int)
            selection, train = _divide(train, held_out)
        elif self.selection == self.reported:
            selection, report = _divide(report, [row for row in self._half() if row < len(report)])
        else:
            selection = whole[self.selection]
        return Splits(train, selection, report)

    def _frames(self, data_root: Path | None) -> hub.Frames:
        """Returns the splits in use, each with the columns that are read."""
        frames = hub.frames(GLUE_REPOSITORY, self.name, data_root)
        for name in (used := ("train", self.reported, self.selection)):
            if lacking := [column for column in (*self.columns, "label") if column not in frames.get(name, ())]:
                lacks = f"has no split {name!r} with the column {lacking[0]!r}"
                raise HiesError(f"The copy of {GLUE_REPOSITORY} {lacks}, which task={self.name} needs.")
        return {name: frames[name] for name in used}

    def _split(self, name: str, rows: pd.DataFrame) -> Split:
        names = ("text", "text_pair")
        texts = {name: rows[column].tolist() for name, column in zip(names, self.columns, strict=False)}
        where = f"the split {name!r} of {GLUE_REPOSITORY} ({self.name})"
        return self.checked(Split(texts, rows["label"].to_numpy()), where)

    def _half(self) -> list[int]:
        return _halves().get(self.name, []) if self.selection == self.reported else []


def _divide(examples: Split, chosen: Sequence[int] | np.ndarray) -> tuple[Split, Split]:
    """Returns the chosen examples, and the others in their order."""
    others = np.setdiff1d(np.arange(len(examples)), np.asarray(chosen, dtype=np.int64))
    return examples.take(chosen), examples.take(others)


PAIR = ("sentence1", "sentence2")
GLUE_TASKS: tuple[type[Glue], ...] = (
    declare(
        Glue, "sst2", "Sentiment of a phrase from a film review.",
        columns=("sentence",), labels=("negative", "positive"),
    ),
    declare(
        Glue, "cola", "Is a sentence acceptable English?", metric="matthews", selection="validation",
        columns=("sentence",), labels=("unacceptable", "acceptable"),
    ),
    declare(
        Glue, "mrpc", "Do two sentences mean the same?", metric="f1", selection="validation",
        columns=PAIR, labels=("not_equivalent", "equivalent"),
    ),
    declare(
        Glue, "qqp", "Do two questions ask the same?",
        columns=("question1", "question2"), labels=("not_duplicate", "duplicate"),
    ),
    declare(
        Glue, "stsb", "How similar are two sentences, from 0 to 5? A regression task.", metric="pearson",
        columns=PAIR, labels=(), scores=(0.0, 5.0), selection="validation",
    ),
    declare(
        Glue, "qnli", "Does a sentence answer a question?",
        columns=("question", "sentence"), labels=("entailment", "not_entailment"),
    ),
    declare(
        Glue, "mnli",
        "Entailment, contradiction or neither; matched genres are reported, mismatched ones are for selection.",
        columns=("premise", "hypothesis"), labels=("entailment", "neutral", "contradiction"),
        reported="validation_matched", selection="validation_mismatched",
    ),
    declare(
        Glue, "rte", "Does the first sentence entail the second?",
        columns=PAIR, labels=("entailment", "not_entailment"), selection="validation",
    ),
)  # fmt: skip


@cache
def _halves() -> dict[str, list[int]]:
    return json.loads(HALVES.read_text(encoding="utf-8"))
