"""One measure of every criterion at 10, 30 and 50 %, a column for each GLUE task (the form of tables 1 and 2)."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import choice
from analysis.captions import caption, percent
from analysis.errors import Unavailable
from analysis.labels import CRITERIA, GLUE, label, ordered_curves, task_name
from analysis.registry import Table
from analysis.statistics import summarise
from analysis.tables.beside import AVERAGE, BLANK, OURS, PAPER, at_ratios, average, averages_note, missing_tasks, number
from analysis.tables.beside import one_calibration_size as checked

RATIOS = (0.1, 0.3, 0.5)
# Our curve -> the name of the method in the paper, in the paper's order.
NAMED = ("random", "ad", "his", "l2", "llm_pruner_channel", "llm_pruner_block")
METHODS = {CRITERIA[name]: CRITERIA[name] for name in NAMED}
METHODS |= {label("slicegpt", {"tune": tune}): label("slicegpt", {"tune": tune}) for tune in (False, True)}
METHODS[label("hies", {"alpha": "per_ratio"})] = "HIES"
UNPRUNED, UNPRUNED_IN_PAPER = "unpruned", "BERT"


class Cell(NamedTuple):
    """A number and how many seeds have it: n are defined, of so many seeds."""

    mean: float
    n: int
    seeds: int


NOTHING = Cell(np.nan, 0, 0)


def methods_table(rows: pd.DataFrame, measure: str, printed: pd.DataFrame, title: str) -> Table:
    """The paper's number above ours for each criterion and ratio; further curves of ours have a line of their own.

    printed: columns ratio, method, task and `<measure>_percent`; the unpruned line is there if the paper has it.

    Raises:
        Unavailable: several calibration sizes, or no row that the paper's table has a place for.
    """
    rows = checked(rows[rows["task"].isin(GLUE)])
    pruned = at_ratios(rows, RATIOS, GLUE)
    if not pruned["curve"].isin(METHODS).any():
        raise Unavailable(f"there are no rows of GLUE at 10, 30 or 50 % for any of {', '.join(METHODS)}")
    ours = _ours(pruned, rows, measure)
    paper = {
        (row["ratio"], row["method"], row["task"]): row[f"{measure}_percent"] for row in printed.to_dict("records")
    }
    lines = [(ratio, curve) for ratio in RATIOS for curve in [*METHODS, *_further(pruned)]]
    if (0.0, UNPRUNED_IN_PAPER, AVERAGE) in paper:
        lines = [(0.0, UNPRUNED), *lines]
    data = pd.DataFrame(
        [_record(ratio, curve, task, paper, ours) for ratio, curve in lines for task in (*GLUE, AVERAGE)]
    )
    used = rows[rows["curve"].isin([curve for _, curve in lines])]
    return Table(_shown(data), data, f"{title}: {caption(used)}. {_note(data)}{missing_tasks(pruned, GLUE)}")


def _ours(pruned: pd.DataFrame, rows: pd.DataFrame, measure: str) -> dict[tuple[float, str, str], Cell]:
    unpruned = rows[rows["ratio"] == 0].assign(curve=UNPRUNED).drop_duplicates(["task", "seed"])
    points = summarise(pd.concat([pruned, unpruned]), measure, ["ratio", "curve", "task"])
    return {
        (round(point.ratio, 6), point.curve, point.task): Cell(point.mean, point.n, point.seeds)
        for point in points.itertuples(name="Point")
    }


def _further(rows: pd.DataFrame) -> list[str]:
    """Our curves that the paper has no line for; single numbers for alpha only where none was chosen."""
    alphas = rows["alpha"] if "alpha" in rows else pd.Series(np.nan, index=rows.index)
    chosen = alphas.map(lambda alpha: isinstance(alpha, str)).any()
    fixed = set(rows.loc[alphas.map(choice.is_number), "curve"]) if chosen else set()
    return [curve for curve in ordered_curves(rows) if curve not in METHODS and curve not in fixed]


def _record(
    ratio: float,
    curve: str,
    task: str,
    paper: dict[tuple[float, str, str], float],
    ours: dict[tuple[float, str, str], Cell],
) -> dict[str, object]:
    method = UNPRUNED_IN_PAPER if curve == UNPRUNED else METHODS.get(curve, "")
    cell = ours.get((ratio, curve, task), NOTHING)
    if task == AVERAGE:
        cells = {name: ours.get((ratio, curve, name), NOTHING) for name in GLUE}
        seeds = min(one.seeds for one in cells.values())
        cell = Cell(average({name: one.mean for name, one in cells.items()}, GLUE), seeds, seeds)
    told = paper.get((ratio, method, task), np.nan)
    return {
        "ratio": ratio,
        "criterion": curve,
        "task": task,
        PAPER: told,
        OURS: cell.mean,
        "n": cell.n,
        "seeds": cell.seeds,
    }


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    """Two lines for what the paper has, one for what it has not, none for what neither side has."""
    lines = []
    for (ratio, curve), part in data.groupby(["ratio", "criterion"], sort=False):
        for side in (PAPER, OURS):
            if part[side].isna().all() and (side == PAPER or part[PAPER].isna().all()):
                continue
            cells = {task_name(row["task"]): _text(row, side) for row in part.to_dict("records")}
            lines.append({"removed": percent(float(str(ratio))), "criterion": curve, "numbers": side, **cells})
    return pd.DataFrame(lines)


def _text(row: dict[object, object], side: str) -> str:
    text = number(float(str(row[side])))
    partly = side == OURS and text and row["n"] != row["seeds"]
    return f"{text} (n = {row['n']})" if partly else text


def _note(data: pd.DataFrame) -> str:
    undefined = data[(data["n"] == 0) & (data["seeds"] > 0) & (data["task"] != AVERAGE)]
    cells = [
        f"{task_name(row.task)} at {percent(row.ratio)} for {row.criterion}"
        for row in undefined.itertuples(name="Cell")
    ]
    told = f" Undefined for all seeds (constant predictions): {', '.join(cells)}." if cells else ""
    return f"Paper: BERT-base. Ours: mean over seeds. {BLANK}; {averages_note([*GLUE])}.{told}"
