"""What the tables with the paper's numbers beside ours share."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from analysis import choice
from analysis.errors import Unavailable
from analysis.labels import TASKS, task_name

AVERAGE = "average"
MODEL = "BERT"  # as the files of the paper's numbers name BERT-base
PAPER, OURS = "paper", "ours"
BLANK = "Blank: no number on that side; an average is given only where all eight tasks have a number."


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
    """The rows of HIES with the alpha that stands for it: chosen per ratio, else per task, else auto, else a number."""
    curve = choice.plainest(rows, "hies")
    if curve is None:
        return rows[:0]
    alpha = rows.loc[rows["curve"] == curve, "alpha"].iloc[0]
    return rows[(rows["criterion"] == "hies") & (rows["alpha"] == alpha)]


def average(values: Mapping[str, float]) -> float:
    """The mean over the eight tasks of GLUE; NaN where any of them is missing or undefined."""
    return float(np.mean([values.get(task, np.nan) for task in TASKS]))


def at_ratios(rows: pd.DataFrame, ratios: Iterable[float]) -> pd.DataFrame:
    """The rows of GLUE tasks at these ratios."""
    near = np.isclose(rows["ratio"].to_numpy()[:, None], list(ratios)).any(axis=1)
    return rows[near & rows["task"].isin(TASKS)]


def number(value: float, style: str = ".2f") -> str:
    """A number, or nothing where there is none."""
    return "" if np.isnan(value) else format(value, style)


def missing_tasks(rows: pd.DataFrame) -> str:
    """A sentence that names the tasks of the paper that have no rows; empty if there is none."""
    absent = [task_name(task) for task in TASKS if task not in set(rows["task"])]
    return f" No rows of ours for {', '.join(absent)}." if absent else ""
