"""VizWiz-VQA: questions that blind people asked about pictures they took, each with the answers of ten others.

Gurari et al. 2018, arXiv 1802.08218. The test split has no answers, so the validation split is reported; where the data
set has no training split (the copy that is read from the Hub), the beginning of the validation split is left out of the
report and used for calibration and selection.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.errors import HiesError
from hies.storage import digest
from hies.tasks import hub
from hies.tasks.checks import check_cells
from hies.tasks.splits import Split, Splits
from hies.tasks.vqa import accuracy as vqa
from hies.tasks.vqa.visual import VisualTask

if TYPE_CHECKING:
    import pandas as pd

VIZWIZ_REPOSITORY = "lmms-lab/VizWiz-VQA"
VIZWIZ_COLUMNS = ("image", "question", "answers")
FOR_CALIBRATION, FOR_SELECTION = 512, 256  # examples: the first of the split that they come from, and the next ones
# What LLaVA-1.5's authors ask for after a question of this benchmark (arXiv 2310.03744).
INSTRUCTION = (
    "When the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase."
)


class VizWiz(VisualTask):
    """Answers in a word or a phrase; labels are the ten people's answers as a JSON list."""

    name: ClassVar[str] = "vizwiz"
    metric: ClassVar[str] = "vqa"
    max_new_tokens: ClassVar[int] = 32

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the files in use and of how they are divided and asked about."""
        return digest([vizwiz_identity(data_root), self.max_new_tokens])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns the three splits; images stay encoded, in memory (3 to 4 GB for the whole validation split)."""
        train, selection = holdout(data_root)
        rows = hub.read_split(VIZWIZ_REPOSITORY, "val", VIZWIZ_COLUMNS, data_root)
        left_out = FOR_CALIBRATION + FOR_SELECTION if calibration_split(data_root) == "val" else 0
        if len(rows) <= left_out:
            raise HiesError(
                f"The split 'val' of {VIZWIZ_REPOSITORY} has {len(rows)} rows, but its first {left_out} are for "
                "calibration and selection and none is left to report; give the whole split."
            )
        return Splits(train, selection, with_instruction("val", rows[left_out:]))

    def target(self, label: str) -> str:
        """Returns the answer that most people gave."""
        return most_common(label)

    def read(self, text: str) -> str:
        """Returns what a model wrote, normalized."""
        return vqa.normalized_answer(text)

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Returns where calibration examples come from."""
        return {"calibration_source": f"{calibration_split(data_root)}[:{FOR_CALIBRATION}]"}


def vizwiz_identity(data_root: Path | None) -> str:
    """Returns a digest of the files of all splits in use and of how they are divided and asked about."""
    used = [hub.split_identity(VIZWIZ_REPOSITORY, name, data_root) for name in ("train", "val")]
    return digest([used, FOR_CALIBRATION, FOR_SELECTION, INSTRUCTION])


def calibration_split(data_root: Path | None) -> str:
    """Returns the split that calibration and selection examples come from: the training split where there is one."""
    return "train" if hub.split_files(VIZWIZ_REPOSITORY, "train", data_root) else "val"


def holdout(data_root: Path | None) -> tuple[Split, Split]:
    """Returns the examples for calibration and for selection, which are never reported."""
    split, count = calibration_split(data_root), FOR_CALIBRATION + FOR_SELECTION
    rows = hub.read_split(VIZWIZ_REPOSITORY, split, VIZWIZ_COLUMNS, data_root, count)
    return with_instruction(split, rows[:FOR_CALIBRATION]), with_instruction(split, rows[FOR_CALIBRATION:])


def with_instruction(split: str, rows: pd.DataFrame) -> Split:
    """Returns the questions of some rows of a split, with the instruction, and the people's answers.

    Raises:
        HiesError: answers that are no list of texts, as in the test split; no question, or no image.
    """
    where = f"the rows {rows.index.min()} to {rows.index.max()} of the split {split!r} of {VIZWIZ_REPOSITORY}"
    answers = [_texts(cell) for cell in rows["answers"]]
    check_cells("question", rows["question"], where, (str,))
    questions = [f"{question.strip()}\n{INSTRUCTION}" for question in rows["question"]]
    images = hub.image_files(rows["image"], where)
    return Split({"image": images, "question": questions}, np.array([json.dumps(texts) for texts in answers], str))


def most_common(label: str) -> str:
    """Returns what most people said, of a JSON list of their answers; of several the first."""
    return Counter(json.loads(label)).most_common(1)[0][0]


def _texts(cell: Any) -> list[str]:
    texts = list(cell) if isinstance(cell, list | tuple | np.ndarray) else []  # of a text its letters would be answers
    if not texts or not all(isinstance(text, str) for text in texts):
        raise HiesError(
            f"The column 'answers' of {VIZWIZ_REPOSITORY} holds {str(cell)[:60]!r} where the texts of ten answers "
            "should be; give a copy of a split that has answers."
        )
    return texts
