"""choice: questions of one's own with options, of which a language model takes the most likely one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.errors import ParameterError
from hies.tasks.checks import shown
from hies.tasks.choice_task import ChoiceTask
from hies.tasks.own import cells
from hies.tasks.own.base import OwnData, sizes_in_words
from hies.tasks.own.columns import names_of, there_are
from hies.tasks.own.files import bad_cell, read_rows
from hies.tasks.own.labels import LONGEST_NUMBER
from hies.tasks.splits import Split, Splits

if TYPE_CHECKING:
    import pandas as pd

GAP = "{question}"
NUMBERS = "numbers"  # the way to give answers that does not say where it starts
USUAL_COLUMNS = {"question": ("question",), "options": ("options", "choices"), "answer": ("answer", "label")}


@dataclass(frozen=True)
class OwnChoice(OwnData, ChoiceTask):
    """Questions of one's own with options, of which a language model takes the most likely one after the question.

    Attributes:
        question: the column of questions; null: `question`.
        options: the column that lists the options of each question (JSON lines, parquet), or one column for each
            option: `[a,b,c,d]`; null: `options` or `choices`, or the columns A, B, C, ...
        answer: the column of right answers: letters from A, whole numbers from 0 (refused where none is 0), or the
            options themselves; null: `answer` or `label`.
        prompt: what a model reads before an option; `{question}` stands for the question.
        id: the column of ids, none of which may occur twice, where there is one; null: it is not looked at.
        separator: of the fields of a CSV file; null: a comma, in .tsv a tab.
    """

    question: str | None = None
    options: Any = None  # a name, or a list of names
    answer: str | None = None
    prompt: str = "Question: {question}\nAnswer:"
    id: str | None = "id"
    separator: str | None = None

    kind_name: ClassVar[str] = "choice"
    example: ClassVar[str] = "FILE.jsonl"

    def __post_init__(self) -> None:
        super().__post_init__()
        if GAP not in self.prompt:
            raise ParameterError("prompt", self.prompt, f"it holds {GAP} where the question goes")
        if other := re.search(r"\{\w+\}", self.prompt.replace(GAP, "")):
            raise ParameterError("prompt", self.prompt, f"{other[0]} stands for nothing, {GAP} alone does")

    def read(self, data_root: Path | None) -> Splits:
        """Returns the splits, as `hies.tasks.lm_eval.choose` takes them."""
        parts: dict[str, Split] = {}
        counted: list[int] = []
        for part, source in self.given().items():
            rows = read_rows(part, source, self.encoding, self.separator, data_root)
            question, options, answer = self._columns(rows, source)
            cells.check_ids(rows, self.id, source)
            questions = cells.text_column(rows, question, source)
            offered = [_options(row, place, options, source) for place, row in enumerate(_lists(rows, options))]
            inputs: dict[str, list[Any]] = {
                "contexts": [[self.prompt.replace(GAP, text)] for text in questions],
                "continuations": [[f" {option}" for option in each] for each in offered],
                "sizes": [[len(option) for option in each] for each in offered],
            }
            way, right = _answers(rows[answer].tolist(), offered, answer, source)
            parts[part] = Split(inputs, right)
            counted += right.tolist() if way == NUMBERS else []
        _check_start(counted, answer)
        splits = self.divided(parts)
        self.warn_of_shared(parts, splits)
        return splits

    def description(self, data_root: Path | None) -> str:
        """Returns what is read: files, columns and splits."""
        rows = read_rows("train", self.given()["train"], self.encoding, self.separator, data_root)
        question, options, answer = self._columns(rows, self.given()["train"])
        columns = f"questions in {question!r}, options in {', '.join(map(repr, options))}, answers in {answer!r}"
        return f"{self.name}: {self.origin()}; {columns}; {sizes_in_words(self.in_use(data_root))}."

    def _columns(self, rows: pd.DataFrame, source: str) -> tuple[str, tuple[str, ...], str]:
        """Returns the columns of the question, of the options and of the answer."""
        names = [*map(str, rows.columns)]
        there = there_are(names, source)
        if self.id not in (None, "id", *names):
            raise ParameterError("task.id", self.id, there)
        chosen: dict[str, tuple[str, ...]] = {}
        for option in USUAL_COLUMNS:
            given = names_of(option, getattr(self, option))
            if unknown := [name for name in given if name not in names]:
                raise ParameterError(f"task.{option}", unknown[0], there)
            guessed = tuple(name for name in USUAL_COLUMNS[option] if name in names)[:1]
            if option == "options" and not guessed:
                guessed = tuple(name for name in ascii_uppercase if name in names)
            chosen[option] = given or guessed
            if not chosen[option]:
                raise ParameterError(f"task.{option}", None, f"{there}; name the one of the {option}")
        return chosen["question"][0], chosen["options"], chosen["answer"][0]


def _lists(rows: pd.DataFrame, columns: Sequence[str]) -> list[Any]:
    """Returns what stands in the columns of the options, a list for each row."""
    if len(columns) == 1:
        return rows[columns[0]].tolist()
    return list(map(list, zip(*(rows[column].tolist() for column in columns), strict=True)))


def _options(cell: Any, row: int, columns: Sequence[str], source: str) -> list[str]:
    """Returns the options of a question: at least two, all different; those of columns end at the first empty cell."""
    found = cell.tolist() if isinstance(cell, np.ndarray) else cell
    if not isinstance(found, list | tuple):
        what = f"{shown(cell)} is no list of options"
        raise bad_cell(source, row, columns[0], what, "give a list, or a column for each as task.options=[a,b]")
    found = list(found)
    while len(columns) > 1 and found and cells.is_missing(found[-1]):
        found.pop()
    for place, option in enumerate(found):
        cells.check_text(option, row, columns[min(place, len(columns) - 1)], source)
    if len(found) < 2 or len(set(found)) < len(found):
        what = "there are fewer than two options" if len(found) < 2 else "two options are the same"
        raise bad_cell(source, row, columns[0], what, cells.MEND)
    return found


def _answers(
    answers: Sequence[Any], offered: Sequence[Sequence[str]], column: str, source: str
) -> tuple[str, np.ndarray]:
    """Returns in which way all rows give the right option, and its place in each row, int64 [examples].

    Raises:
        HiesError: a row gives it in no way, or in two that differ.
    """
    texts = [str(one).strip() if isinstance(one, str | int) else "" for one in answers]
    ways: dict[str, list[int | None]] = {
        "options": [each.index(text) if text in each else None for text, each in zip(texts, offered, strict=True)],
        "letters": [_place(text, ascii_uppercase[: len(each)]) for text, each in zip(texts, offered, strict=True)],
        NUMBERS: [
            int(text) if text.isdecimal() and len(text) <= LONGEST_NUMBER and int(text) < len(each) else None
            for text, each in zip(texts, offered, strict=True)
        ],
    }
    whole = {way: found for way, found in ways.items() if None not in found}
    for row, places in enumerate(zip(*whole.values(), strict=True)):
        if len(set(places)) > 1:
            what = f"{shown(answers[row])} can be read as {' and as '.join(whole)}, which differ"
            raise bad_cell(source, row, column, what, "give letters from A")
    if not whole:
        best = max(ways, key=lambda way: sum(place is not None for place in ways[way]))
        row = ways[best].index(None)
        what = f"{shown(answers[row])} is none of the {len(offered[row])} options"
        raise bad_cell(source, row, column, what, "give letters from A, numbers from 0, or the options themselves")
    way, found = next(iter(whole.items()))
    return way, np.array(found, dtype=np.int64)


def _check_start(numbers: Sequence[int], column: str) -> None:
    """Raises ParameterError for answers of all files that are numbers and never 0: all would be right from 1, too."""
    if numbers and min(numbers) > 0:
        what = f"its numbers are {min(numbers)} to {max(numbers)}, never 0, so that they may count from 0 or from 1"
        remedy = "give letters from A, or the options themselves, which leave no doubt"
        raise ParameterError("task.answer", column, f"{what}; {remedy}")


def _place(text: str, letters: str) -> int | None:
    return letters.index(text.upper()) if len(text) == 1 and text.upper() in letters else None
