"""What the tables with the paper's numbers beside ours share."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import choice, paper
from analysis.errors import Unavailable
from analysis.labels import GLUE, named_tasks, ordered_tasks, task_name

AVERAGE = "average"
PAPER, OURS = "paper", "ours"
NUMBERS = {3: "three", 8: "eight"}
BLANK = "Blank: no number on that side"


class Printed(NamedTuple):
    """A table of the paper, of one of its models: numbers has a line for each task, and whatever else the table has."""

    table: int
    model: str  # for readers
    numbers: pd.DataFrame

    @property
    def tasks(self) -> list[str]:
        """Its tasks in our order."""
        tasks = self.numbers["task"]
        return ordered_tasks(tasks[tasks != AVERAGE])

    @property
    def kind(self) -> str:
        """What a task of it is, for sentences about what is lacking."""
        return "a GLUE task" if set(self.tasks) <= set(GLUE) else named_tasks(self.tasks)


def bert(table: int, file: str) -> Printed:
    """The numbers of BERT-base in a file of the paper's numbers."""
    return _printed(table, file, "BERT", "BERT-base")


def llama(table: int, file: str) -> Printed:
    """The numbers of LLaMA-2-7B in a file of the paper's numbers."""
    return _printed(table, file, "LLaMA-2-7B", "LLaMA-2-7B")


def one_calibration_size(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows themselves, if their calibration sets have one size.

    Raises:
        Unavailable: they have several.
    """
    sizes = sorted(rows["calibration_size"].unique())
    if len(sizes) > 1:
        raise Unavailable(f"it takes one calibration size, and there are {', '.join(map(str, sizes))}")
    return rows


def usual_hies(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of HIES with the alpha that stands for it: chosen per ratio, else per task, else auto, else a number.

    HIES of another importance than HIS is left out where there is one of HIS.
    """
    curve = choice.plainest(rows, "hies")
    if curve is None:
        return rows[:0]
    usual = rows[rows["curve"] == curve]
    same = choice.of_his(rows) == choice.of_his(usual).iloc[0]
    return rows[(rows["criterion"] == "hies") & same & (rows["alpha"] == usual["alpha"].iloc[0])]


def average(values: Mapping[str, float], tasks: Iterable[str]) -> float:
    """The mean over the tasks; NaN where any of them is missing or undefined."""
    return float(np.mean([values.get(task, np.nan) for task in tasks]))


def at_ratios(rows: pd.DataFrame, ratios: Iterable[float], tasks: Iterable[str]) -> pd.DataFrame:
    """The rows of these tasks at these ratios."""
    near = np.isclose(rows["ratio"].to_numpy()[:, None], list(ratios)).any(axis=1)
    return rows[near & rows["task"].isin(tasks)]


def number(value: float, style: str = ".2f") -> str:
    """A number, or nothing where there is none."""
    return "" if np.isnan(value) else format(value, style)


def averages_note(tasks: list[str]) -> str:
    """When a table has an average, for its caption."""
    return f"an average is given only where all {NUMBERS[len(tasks)]} tasks have a number"


def missing_tasks(rows: pd.DataFrame, tasks: Iterable[str]) -> str:
    """A sentence that names those of the tasks that have no rows; empty if there is none."""
    absent = [task_name(task) for task in tasks if task not in set(rows["task"])]
    return f" No rows of ours for {', '.join(absent)}." if absent else ""


def _printed(table: int, file: str, model: str, words: str) -> Printed:
    numbers = paper.read(file)
    return Printed(table, words, numbers[numbers["model"] == model])
