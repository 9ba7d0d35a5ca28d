"""Numbers as tables and captions print them, and what these say about the rows they were made from."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.intervals import LEAST_DRAWS
from analysis.text.labels import SETTING, listed_tasks, model_name, ordered_curves, task_name

EQUAL = (
    "Equal within a margin (1 point of quality, 2 of stability): the 90 % interval lies inside it, of means over five "
    "tasks or more also that which counts tasks as drawn. The same: 0 in every draw."
)


def percent(ratio: Any) -> str:
    """Returns a ratio as people read it: 0.3 -> 30 %."""
    return f"{100 * ratio:g} %"


def number(value: Any, style: str = ".2f") -> str:
    """Returns a number, or nothing where there is none."""
    return "" if np.isnan(value) else format(value, style)


def bracketed(mean: str, low: str, high: str) -> str:
    """Returns `mean [low, high]`; the mean alone where there is no interval."""
    return f"{mean} [{low}, {high}]" if low else mean


def signed_interval(estimate: Mapping[Any, Any], digits: int = 2) -> str:
    """Returns `mean [low, high]` of the keys mean, low and high; the mean alone, or nothing, where that is all."""
    return bracketed(*(signed_number(estimate[name], digits) for name in ("mean", "low", "high")))


def signed_number(value: Any, digits: int = 2) -> str:
    """Returns a number with its sign, zero with none; nothing where there is no number."""
    text = number(value, f"+z.{digits}f")
    return text if text.strip("+0.") else text.lstrip("+")


def caption(rows: pd.DataFrame) -> str:
    """Returns model, task, examples, seeds and calibration size of these rows, and whether jobs are missing."""
    tasks, seeds, counts = rows["task"].nunique(), rows["seed"].nunique(), rows["examples"]
    several = tasks > 1 and counts.nunique() > 1
    parts = [
        f"model {_listed(rows['model'].map(model_name))}",
        f"task{'s' * (tasks > 1)} {listed_tasks(rows['task'])}",
        f"{counts.min()} to {counts.max()} examples a task" if several else f"{_listed(counts)} examples",
        f"{seeds} seed{'s' * (seeds > 1)} ({_listed(rows['seed'])}{_of_fewer_draws(rows)})",
        f"calibration size {_listed(rows['calibration_size'])}",
    ]
    finished, declared = rows.drop_duplicates(SETTING)[["jobs_finished", "jobs_declared"]].sum()
    return ", ".join(parts) + (f"; incomplete: {finished} of {declared} jobs" if finished < declared else "")


def _of_fewer_draws(rows: pd.DataFrame) -> str:
    """The curves of fewer draws than others, on a task that has most; nothing where all have the same."""
    counts = rows.groupby(["task", "curve"], sort=False)["seed"].nunique()
    short = counts[counts < counts.groupby("task").transform("max")].groupby("curve", sort=False).min()
    by_count: dict[int, list[str]] = {}
    for curve, count in short.items():
        by_count.setdefault(int(count), []).append(str(curve))
    return "".join(f"; {count} alone of {', '.join(curves)}" for count, curves in sorted(by_count.items()))


def interval_words(rows: pd.DataFrame) -> str:
    """Returns what a band or brackets around a mean over the seeds of these rows are."""
    counts = rows.groupby([*SETTING, "curve"])["seed"].nunique()
    if counts.max() < LEAST_DRAWS:
        return f"range of {counts.max()} draws" if counts.max() > 1 else "none (one draw)"
    some = ", of fewer than five draws their range" if counts.between(2, LEAST_DRAWS - 1).any() else ""
    return f"95 % t interval over draws{some}"


def lost_tasks(rows: pd.DataFrame, shown: Collection[str], lack: str) -> str:
    """Returns a sentence that names the tasks of `rows` that are not shown, and what they `lack`; empty without any."""
    lost = set(rows["task"]) - set(shown)
    return f" Not drawn, since they have {lack}: {listed_tasks(lost)}." if lost else ""


def absent_tasks(rows: pd.DataFrame, of: Collection[str] | None = None) -> str:
    """Returns a sentence that names the declared tasks (`of` these) that have no rows yet; empty without any."""
    absent = {task for text in rows["tasks_without_rows"].unique() for task in text.split(",") if task}
    kept = absent if of is None else absent & set(of)
    return f" No rows yet: {listed_tasks(kept)}." if kept else ""


def heading(rows: pd.DataFrame) -> str:
    """Returns model and task of a figure of one task, for its title."""
    return f"{model_name(rows['model'].iloc[0])} on {task_name(rows['task'].iloc[0])}"


def without_heads(rows: pd.DataFrame) -> list[str]:
    """Returns the curves of methods that remove no heads, not even at ratios at which some should go."""
    some = (rows["ratio"] * rows["heads_total"]).round() > 0  # of few heads, none may be due at a small ratio
    most = rows[some].groupby("curve")["heads_removed"].max()
    return [curve for curve in ordered_curves(rows) if most.get(curve, 1) == 0]


def removed_words(rows: pd.DataFrame) -> str:
    """Returns what an axis of ratios counts, in percent: heads, or attention weights where methods remove no heads."""
    return f"{'attention weights' if without_heads(rows) else 'heads'} removed (%)"


def _listed(values: pd.Series) -> str:
    unique = sorted(values.unique())
    return f"{unique[0]} to {unique[-1]}" if len(unique) > 6 else ", ".join(map(str, unique))
