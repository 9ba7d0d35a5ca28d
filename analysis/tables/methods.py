"""One measure of every criterion at 10, 30 and 50 %, a column for each GLUE task (the form of tables 1 and 2)."""

import numpy as np
import pandas as pd

from analysis.errors import Unavailable
from analysis.registry import Table
from analysis.stats.intervals import summarise
from analysis.stats.pairing import one_calibration_size
from analysis.tables import beside
from analysis.tables.beside import AVERAGE, OURS, PAPER
from analysis.text import choice
from analysis.text.captions import caption
from analysis.text.labels import CRITERION_NAMES, GLUE_NAMES, label, ordered_curves, task_name
from analysis.text.numbers import number, percent

METHOD_RATIOS = (0.1, 0.3, 0.5)
# Our curves under the name of the method in the paper, in the paper's order.
PRINTED_NAMES = {
    **{CRITERION_NAMES[name]: CRITERION_NAMES[name]
       for name in ("random", "ad", "his", "l2", "llm_pruner_channel", "llm_pruner_block")},
    **{label("slicegpt", {"tune": tune}): label("slicegpt", {"tune": tune}) for tune in (False, True)},
    label("hies", {"alpha": "per_ratio"}): "HIES",
}  # fmt: skip
UNPRUNED, UNPRUNED_IN_PAPER = "unpruned", "BERT"
CELL = ["ratio", "criterion", "task"]


def methods_table(rows: pd.DataFrame, measure: str, printed: pd.DataFrame, title: str) -> Table:
    """Returns the paper's number above ours for each criterion and ratio; further curves of ours stand alone.

    Args:
        rows: of any tasks.
        measure: quality or stability.
        printed: columns ratio, method, task and `<measure>_percent`; the unpruned line is there if the paper has it.
        title: begins the caption.

    Raises:
        Unavailable: several calibration sizes, or no row that the paper's table has a place for.
    """
    rows = one_calibration_size(rows[rows["task"].isin(GLUE_NAMES)])
    pruned = beside.at_ratios(rows, METHOD_RATIOS, GLUE_NAMES)
    if not pruned["curve"].isin(PRINTED_NAMES).any():
        raise Unavailable(f"there are no rows of GLUE at 10, 30 or 50 % for any of {', '.join(PRINTED_NAMES)}")
    lines = [(ratio, curve) for ratio in METHOD_RATIOS for curve in [*PRINTED_NAMES, *_further(pruned)]]
    paper = printed.set_index(["ratio", "method", "task"])[f"{measure}_percent"].to_dict()
    if (0.0, UNPRUNED_IN_PAPER, AVERAGE) in paper:
        lines = [(0.0, UNPRUNED), *lines]
    cells = pd.DataFrame([(*line, task) for line in lines for task in (*GLUE_NAMES, AVERAGE)], columns=CELL)
    names = {**PRINTED_NAMES, UNPRUNED: UNPRUNED_IN_PAPER}
    keys = zip(cells["ratio"], cells["criterion"].map(names), cells["task"], strict=True)
    cells[PAPER] = [paper.get(key, np.nan) for key in keys]
    data = cells.merge(_ours(pruned, rows, measure), on=CELL, how="left").fillna({"n": 0, "seeds": 0})
    data = data.astype({"n": int, "seeds": int})
    used = rows[rows["curve"].isin([curve for _, curve in lines])]
    return Table(
        _shown(data), data, f"{title}: {caption(used)}. {_note(data)}{beside.missing_tasks(pruned, GLUE_NAMES)}"
    )


def _ours(pruned: pd.DataFrame, rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean, n (defined values) and seeds of each ratio, curve and task, and the averages that all tasks have."""
    unpruned = rows[rows["ratio"] == 0].assign(curve=UNPRUNED).drop_duplicates(["task", "seed"])
    points = summarise(pd.concat([pruned, unpruned]), measure, ["ratio", "curve", "task"])
    points = points.rename(columns={"curve": "criterion", "mean": OURS})[[*CELL, OURS, "n", "seeds"]]
    whole = points.groupby(CELL[:2]).filter(lambda part: part["task"].nunique() == len(GLUE_NAMES))
    averages = whole.groupby(CELL[:2], as_index=False).agg(
        {OURS: lambda means: means.mean(skipna=False), "seeds": "min"}
    )
    return pd.concat([points, averages.assign(task=AVERAGE, n=averages["seeds"])])


def _further(rows: pd.DataFrame) -> list[str]:
    """Our curves that the paper has no line for; single numbers for alpha only where none was chosen."""
    alphas = rows["alpha"] if "alpha" in rows else pd.Series(np.nan, index=rows.index)
    chosen = alphas.map(lambda alpha: isinstance(alpha, str)).any()
    fixed = set(rows.loc[alphas.map(choice.is_number), "curve"]) if chosen else set()
    return [curve for curve in ordered_curves(rows) if curve not in PRINTED_NAMES and curve not in fixed]


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
    cells = [f"{task_name(row.task)} at {percent(row.ratio)} for {row.criterion}" for row in undefined.itertuples()]
    text = f" Undefined for all seeds (constant predictions): {', '.join(cells)}." if cells else ""
    averages = beside.averages_note([*GLUE_NAMES])
    return f"Paper: BERT-base. Ours: mean over seeds. {beside.BLANK_NOTE}; {averages}.{text}"
