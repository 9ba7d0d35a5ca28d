"""What the tables with the paper's numbers beside ours share."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import paper
from analysis.text import choice
from analysis.text.labels import GLUE_NAMES, named_tasks, ordered_tasks, task_name

AVERAGE = "average"
PAPER, OURS = "paper", "ours"
BLANK_NOTE = "Blank: no number on that side"


class Printed(NamedTuple):
    """A table of the paper, of one of its models.

    Attributes:
        table: its number.
        model: the model, for readers.
        numbers: a line for each task, and whatever else the table has.
    """

    table: int
    model: str
    numbers: pd.DataFrame

    @property
    def tasks(self) -> list[str]:
        """Its tasks in our order."""
        tasks = self.numbers["task"]
        return ordered_tasks(tasks[tasks != AVERAGE])

    @property
    def kind(self) -> str:
        """What a task of it is, for sentences about what is lacking."""
        return "a GLUE task" if set(self.tasks) <= set(GLUE_NAMES) else named_tasks(self.tasks)


def bert(table: int, file: str) -> Printed:
    """Returns the numbers of BERT-base in a file of the paper's numbers."""
    numbers = paper.read_paper(file)
    return Printed(table, "BERT-base", numbers[numbers["model"] == "BERT"])


def llama(table: int, file: str) -> Printed:
    """Returns the numbers of LLaMA-2-7B in a file of the paper's numbers."""
    numbers = paper.read_paper(file)
    return Printed(table, "LLaMA-2-7B", numbers[numbers["model"] == "LLaMA-2-7B"])


def usual_hies(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of HIES with the usual alpha: chosen per ratio, else per task, else auto, else a number.

    HIES of another importance than HIS is left out where there is one of HIS.
    """
    usual = choice.usual_run(rows, "hies")
    if usual.empty:
        return usual
    same = choice.of_his(rows) == choice.of_his(usual).iloc[0]
    return rows[(rows["criterion"] == "hies") & same & (rows["alpha"] == usual["alpha"].iloc[0])]


def average(values: Mapping[str, float], tasks: Iterable[str]) -> float:
    """Returns the mean over the tasks; NaN where any of them is missing or undefined."""
    return float(np.mean([values.get(task, np.nan) for task in tasks]))


def at_ratios(rows: pd.DataFrame, ratios: Iterable[float], tasks: Iterable[str]) -> pd.DataFrame:
    """Returns the rows of these tasks at these ratios."""
    near = np.isclose(rows["ratio"].to_numpy()[:, None], list(ratios)).any(axis=1)  # [rows, 1] with [ratios]
    return rows[near & rows["task"].isin(tasks)]


def averages_note(tasks: list[str]) -> str:
    """Returns when a table has an average, for its caption."""
    return f"an average is given only where all { {3: 'three', 8: 'eight'}[len(tasks)] } tasks have a number"


def missing_tasks(rows: pd.DataFrame, tasks: Iterable[str]) -> str:
    """Returns a sentence that names those of the tasks that have no rows; empty if there is none."""
    absent = [task_name(task) for task in tasks if task not in set(rows["task"])]
    return f" No rows of ours for {', '.join(absent)}." if absent else ""
