"""What tables share that set numbers side by side, most of them the paper's and ours."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import paper
from analysis.stats.significance import MEAN
from analysis.text.captions import signed_interval
from analysis.text.labels import GLUE_NAMES, listed_tasks, named_tasks, ordered_tasks, task_name
from analysis.text.measures import measure_of

AVERAGE = "average"
PAPER, OURS = "paper", "ours"
BERT, LLAMA = "BERT-base", "LLaMA-2-7B"  # models of the paper
BLANK_NOTE = "Blank: no number on that side"
NOT_PRINTED = "The paper has other tasks, so its columns are blank"
ONE_SIZE = "with one calibration size"


class Printed(NamedTuple):
    """A table of the paper, of one of its models.

    Attributes:
        table: its number.
        model: the model, for readers.
        numbers: a line for each task, and whatever else the table has.
        note: what a caption says of them.
        alike: tasks of its kind that it has not, for rows that have none of its own.
    """

    table: int
    model: str
    numbers: pd.DataFrame
    note: str = ""
    alike: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """Its tasks in our order."""
        tasks = self.numbers["task"]
        return ordered_tasks(tasks[tasks != AVERAGE])

    @property
    def kind(self) -> str:
        """What a task of it is, for sentences about what is lacking."""
        return "a GLUE task" if set(self.tasks) <= set(GLUE_NAMES) else named_tasks(self.tasks)

    def fitting(self, rows: pd.DataFrame) -> "Printed":
        """Returns it or, where the rows have tasks `alike` alone, a table of these without the paper's numbers."""
        alike = [task for task in ordered_tasks(rows["task"]) if task in self.alike]
        if not alike or rows["task"].isin(self.tasks).any():
            return self
        ratios = sorted(at_ratios(rows, self.numbers["ratio"].unique(), alike)["ratio"].unique())
        lines = pd.DataFrame(product(alike, ratios), columns=["task", "ratio"])
        return self._replace(numbers=lines.reindex(columns=self.numbers.columns), note=f"{NOT_PRINTED}.")


def printed_of(table: int, file: str, model: str) -> Printed:
    """Returns the numbers of one model in a file of the paper's numbers."""
    numbers = paper.read_paper(file)
    return Printed(table, model, numbers[numbers["model"] == model.removesuffix("-base")])


def side_by_side(
    data: pd.DataFrame, keys: list[str], cells: Callable[[dict], dict[str, str]], after: Sequence[str] = ()
) -> pd.DataFrame:
    """Returns a line for each value of the keys, with the cells of all its rows beside each other.

    Args:
        data: a row for each cell, or for several.
        keys: the columns that begin a line.
        cells: column -> text of a row.
        after: the columns that end a line; they have one value in a line.
    """
    lines: dict[tuple, dict[str, str]] = {}
    for row in data.to_dict("records"):
        lines.setdefault(tuple(row[key] for key in (*keys, *after)), {}).update(cells(row))
    shown = pd.DataFrame(list(lines.values())).fillna("")
    begun = pd.DataFrame(list(lines), columns=[*keys, *after])
    return pd.concat([begun[keys], shown, begun[[*after]]], axis=1)


def on_both_sides(data: pd.DataFrame) -> pd.DataFrame:
    """Returns each row twice, with the column `numbers`: the paper's, then ours."""
    return data.loc[data.index.repeat(2)].assign(numbers=[PAPER, OURS] * len(data))


def at_ratios(rows: pd.DataFrame, ratios: Iterable[float], tasks: Iterable[str]) -> pd.DataFrame:
    """Returns the rows of these tasks at these ratios."""
    near = np.isclose(rows["ratio"].to_numpy()[:, None], list(ratios)).any(axis=1)  # [rows, 1] with [ratios]
    return rows[near & rows["task"].isin(tasks)]


def signed(row: Mapping[Any, Any]) -> str:
    """Returns the difference of a line with its interval, see `signed_interval`, with the digits of its measure."""
    return signed_interval(row, measure_of(row["measure"]).digits)


def tasks_and_means(tasks: pd.Series, counts: pd.Series) -> list[str]:
    """Returns the name of each task, or over how many tasks the mean is."""
    pairs = zip(tasks, counts, strict=True)
    return [f"mean of {count} tasks" if task == MEAN else task_name(task) for task, count in pairs]


def averages_note(tasks: list[str]) -> str:
    """Returns when a table has an average, for its caption."""
    return f"an average is given only where all { {3: 'three', 8: 'eight'}[len(tasks)] } tasks have a number"


def missing_tasks(rows: pd.DataFrame, tasks: Iterable[str]) -> str:
    """Returns a sentence that names those of the tasks that have no rows; empty if there is none."""
    absent = set(tasks) - set(rows["task"])
    return f" No rows of ours for {listed_tasks(absent)}." if absent else ""
