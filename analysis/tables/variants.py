"""Other forms of HIS, AE and HIES against the paper's: quality and stability, ahead, behind or undecided."""

import numpy as np
import pandas as pd

from analysis.captions import caption, percent
from analysis.labels import task_name
from analysis.registry import Table, table
from analysis.significance import DRAWS
from analysis.tables.claims import MEAN, bootstrap_note, undefined_note
from analysis.tables.summary import signed
from analysis.variants import NO_REFERENCE, compare


@table(
    "variants",
    about="Reductions of HIS, entropies and combinations of HIES against the paper's, with intervals.",
    needs="rows and predictions of another form of his, ae or hies and of the paper's form, on the same seeds",
    per=("experiment", "model"),
)
def variants(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """A line for each curve, reference and task, those of the mean over tasks before those of single tasks."""
    data = compare(rows, draws)
    used = rows[rows["curve"].isin({*data["criterion"], *data["against"]})]
    return Table(_shown(data), data, _caption(data, used, draws))


def missing_note(data: pd.DataFrame) -> str:
    """Which comparisons lack their reference, for a caption; empty if none does."""
    lacking = data[data["verdict"] == NO_REFERENCE].drop_duplicates(["criterion", "against", "task"])
    by_pair = lacking.groupby(["criterion", "against"], sort=False)["task"]
    parts = [f"{curve} has no {against} on {', '.join(map(task_name, tasks))}" for (curve, against), tasks in by_pair]
    return f" Left out, since no run of the same seed is there to compare with: {'; '.join(parts)}." if parts else ""


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    lines = []
    first = pd.concat([data[data["task"] == MEAN], data[data["task"] != MEAN]])
    for (curve, against, task), part in first.groupby(["criterion", "against", "task"], sort=False):
        name = f"mean of {part['tasks'].max()} tasks" if task == MEAN else task_name(str(task))
        line = {"criterion": curve, "against": against, "task": name}
        for row in part.to_dict("records"):
            line[f"{row['measure']}, {row['removed']}"] = _text(row)
        lines.append({**line, "seeds": str(part["seeds"].max())})
    return pd.DataFrame(lines).fillna("")


def _text(row: dict[object, object]) -> str:
    mean, low, high = (float(str(row[name])) for name in ("mean", "low", "high"))
    if np.isnan(mean):
        return str(row["verdict"])
    return f"{row['verdict']}: {signed(mean)}" + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")


def _caption(data: pd.DataFrame, used: pd.DataFrame, draws: int) -> str:
    ratios = ", ".join(percent(ratio) for ratio in sorted(used.loc[used["ratio"] > 0, "ratio"].unique()))
    text = f"Criterion minus the one it stands against in percentage points, mean over the ratios (of {ratios}): "
    text += f"{caption(used)}. {bootstrap_note(draws)} {undefined_note(data)}{missing_note(data)} "
    return text + "Ahead or behind: the interval excludes 0. Blank: undefined."
