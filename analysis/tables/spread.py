"""Mean and standard deviation of HIS and HIES, a line for each task and ratio (the form of tables 9 and 11)."""

import numpy as np
import pandas as pd

from analysis.captions import percent
from analysis.errors import Unavailable
from analysis.labels import TASKS, task_name
from analysis.tables.beside import AVERAGE, MODEL, OURS, PAPER, at_ratios, average, number, usual_hies

CRITERIA = {"his": "HIS", "hies": "HIES"}
# The paper prints the deviations of these metrics as fractions, all others in percentage points.
FRACTIONS = ("cola", "mrpc", "stsb")
NOTE = (
    "The standard deviation is that of a sample (n - 1), in percentage points; the paper prints it as a fraction for "
    "CoLA, MRPC and STS-B, which is multiplied by 100 here, and its averages of both units are left out. STS-B is "
    "100 r, not mapped. An average is given only where all eight tasks have a number. Blank: no number on that side."
)


def samples(rows: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """The rows of HIS and of the usual HIES at the paper's ratios, with `percent`: as tables 9 and 11 measure quality.

    Raises:
        Unavailable: one of the two criteria has no rows there, or several runs of one seed and calibration size.
    """
    rows = at_ratios(rows, printed["ratio"].unique())
    rows = pd.concat([rows[rows["criterion"] == "his"], usual_hies(rows)])
    if set(rows["criterion"]) != set(CRITERIA):
        raise Unavailable("it takes rows of his and of hies on a GLUE task, at the paper's ratios")
    keys = ["criterion", "task", "ratio", "calibration_size", "seed"]
    if rows.duplicated(keys).any():
        raise Unavailable(f"it cannot choose between several curves: {', '.join(sorted(rows['curve'].unique()))}")
    return rows.assign(percent=np.where(rows["metric"] == "pearson", 100 * rows["value"], rows["quality"]))


def spread(values: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Tidy: mean, std and n of `percent` for each task, ratio and criterion, the paper's beside ours.

    values: columns task, ratio, criterion and percent, a line for each seed or calibration size.
    """
    ours = values.groupby(["task", "ratio", "criterion"])["percent"].agg(["mean", "std", "count"]).to_dict("index")
    nothing = {"mean": np.nan, "std": np.nan, "count": 0}
    records = []
    for row in printed[printed["model"] == MODEL].to_dict("records"):
        for criterion, name in CRITERIA.items():
            cells = {task: ours.get((task, row["ratio"], criterion), nothing) for task in TASKS}
            cell = _average(cells) if row["task"] == AVERAGE else cells[row["task"]]
            told = {"mean": row[f"{name}_percent"], "std": _points(row["task"], row[f"{name}_std_as_printed"])}
            record = {"task": row["task"], "ratio": row["ratio"], "criterion": name}
            record |= {f"{PAPER}_{key}": value for key, value in told.items()}
            records.append(record | {f"{OURS}_mean": cell["mean"], f"{OURS}_std": cell["std"], "n": cell["count"]})
    data = pd.DataFrame(records)
    order = [*TASKS, AVERAGE]
    return data.sort_values("task", key=lambda tasks: tasks.map(order.index), kind="stable", ignore_index=True)


def shown(data: pd.DataFrame) -> pd.DataFrame:
    """A line for each task and ratio, `mean ± std` in a column for each criterion and side."""
    most = data["n"].max()
    lines = []
    for (task, ratio), part in data.groupby(["task", "ratio"], sort=False):
        line = {"task": task_name(str(task)), "removed": percent(float(str(ratio)))}
        for row in part.to_dict("records"):
            for side in (PAPER, OURS):
                text = _text(row[f"{side}_mean"], row[f"{side}_std"])
                fewer = side == OURS and text and row["n"] < most
                line[f"{row['criterion']}: {side}"] = f"{text} (n = {row['n']})" if fewer else text
        lines.append(line)
    return pd.DataFrame(lines)


def _average(cells: dict[str, dict[str, float]]) -> dict[str, float]:
    sides = {key: average({task: cell[key] for task, cell in cells.items()}) for key in ("mean", "std")}
    return {**sides, "count": min(cell["count"] for cell in cells.values())}


def _points(task: str, printed: float) -> float:
    return np.nan if task == AVERAGE else printed * (100 if task in FRACTIONS else 1)


def _text(mean: float, deviation: float) -> str:
    return number(mean) + ("" if np.isnan(deviation) or np.isnan(mean) else f" ± {deviation:.2f}")
