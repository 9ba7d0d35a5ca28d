"""Mean and standard deviation of HIS and HIES, a line for each task and ratio (the form of tables 9 to 12)."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.captions import caption, percent
from analysis.errors import Unavailable
from analysis.labels import label, task_name
from analysis.registry import Table
from analysis.tables import beside
from analysis.tables.beside import AVERAGE, OURS, PAPER, Printed, average, number
from analysis.tables.measures import UNDEFINED

CRITERIA = {"his": "HIS", "hies": "HIES"}
TYPE = "The standard deviation is that of a sample (n - 1), in percentage points; the paper prints it as a fraction"
SEEDS = "seeds"


class Deviations(NamedTuple):
    """What the paper's deviations are multiplied by to be percentage points; NaN: they are left out."""

    usually: float
    others: dict[str, float]  # by task
    note: str  # for the caption, beginning with how ours is computed


# The paper prints the deviations of these metrics as fractions, all others in percentage points.
OF_BERT = Deviations(
    1,
    {"cola": 100, "mrpc": 100, "stsb": 100, AVERAGE: np.nan},
    f"{TYPE} for CoLA, MRPC and STS-B, which is multiplied by 100 here, and its averages of both units are left out. "
    "STS-B is 100 r, not mapped.",
)
OF_LLAMA = Deviations(100, {}, f"{TYPE}, which is multiplied by 100 here.")
# On two tasks table 10 has, in the place of the deviation, the mean divided by 100 in every one of its 20 cells.
OF_LLAMA_SEEDS = Deviations(
    100,
    {"hellaswag": np.nan, "winogrande": np.nan},
    f"{TYPE}, which is multiplied by 100 here; for HellaSwag and WinoGrande it prints the mean over again, which is "
    "left out.",
)


def seeds_table(rows: pd.DataFrame, printed: Printed, deviations: Deviations) -> Table:
    """Mean and deviation over the seeds; HIES with alpha per ratio if that is there.

    Raises:
        Unavailable: several calibration sizes, or as `samples`.
    """
    used = samples(beside.one_calibration_size(rows[rows["task"].isin(printed.tasks)]), printed)
    data = spread(used, printed, deviations)
    curve = used.loc[used["criterion"] == "hies", "curve"].iloc[0]
    text = f"Mean ± standard deviation over seeds (%), beside the paper's table {printed.table} ({printed.model}): "
    return _table(data, f"{text}{caption(used)}. Ours: {curve}.", used, printed, deviations)


def sizes_table(rows: pd.DataFrame, printed: Printed, deviations: Deviations) -> Table:
    """For every calibration size the mean over its seeds, then mean and deviation over the sizes.

    Raises:
        Unavailable: fewer than two calibration sizes, or as `samples`.
    """
    used = samples(rows, printed)
    sizes = sorted(used["calibration_size"].unique())
    if len(sizes) < 2:
        raise Unavailable(f"it takes at least two calibration sizes, and there is only {sizes[0]}")
    by_size = used.groupby(["task", "ratio", "criterion", "calibration_size"])["percent"].mean().reset_index()
    data = spread(by_size, printed, deviations)
    name = label("hies", {"alpha": used.loc[used["criterion"] == "hies", "alpha"].iloc[0]})
    text = (
        f"Mean ± standard deviation over the calibration sizes {', '.join(map(str, sizes))} (%; of each size the mean "
        f"over its seeds), beside the paper's table {printed.table} ({printed.model}): {caption(used)}. Ours: {name}."
    )
    return _table(data, text, used, printed, deviations)


def samples(rows: pd.DataFrame, printed: Printed) -> pd.DataFrame:
    """The rows of HIS and of the usual HIES at the paper's ratios, with `percent`: quality, but of STS-B 100 r.

    Raises:
        Unavailable: one of the two criteria has no rows there, or several runs of one seed and calibration size.
    """
    rows = beside.at_ratios(rows, printed.numbers["ratio"].unique(), printed.tasks)
    rows = pd.concat([rows[rows["criterion"] == "his"], beside.usual_hies(rows)])
    if set(rows["criterion"]) != set(CRITERIA):
        raise Unavailable(f"it takes rows of his and of hies on {printed.kind}, at the paper's ratios")
    keys = ["criterion", "task", "ratio", "calibration_size", "seed"]
    if rows.duplicated(keys).any():
        raise Unavailable(f"it cannot choose between several curves: {', '.join(sorted(rows['curve'].unique()))}")
    return rows.assign(percent=np.where(rows["metric"] == "pearson", 100 * rows["value"], rows["quality"]))


def spread(values: pd.DataFrame, printed: Printed, deviations: Deviations) -> pd.DataFrame:
    """Tidy: mean, std, n (defined values) and seeds (all) of `percent` for each task, ratio and criterion.

    values: columns task, ratio, criterion and percent, a line for each seed or calibration size.
    """
    parts = values.groupby(["task", "ratio", "criterion"])["percent"]
    ours = parts.agg(["mean", "std", "count", "size"]).to_dict("index")
    nothing = {"mean": np.nan, "std": np.nan, "count": 0, "size": 0}
    records = []
    for row in printed.numbers.to_dict("records"):
        for criterion, name in CRITERIA.items():
            cells = {task: ours.get((task, row["ratio"], criterion), nothing) for task in printed.tasks}
            cell = _average(cells) if row["task"] == AVERAGE else cells[row["task"]]
            points = deviations.others.get(row["task"], deviations.usually)
            told = {"mean": row[f"{name}_percent"], "std": points * row.get(f"{name}_std_as_printed", np.nan)}
            record = {"task": row["task"], "ratio": row["ratio"], "criterion": name}
            record |= {f"{PAPER}_{key}": value for key, value in told.items()}
            record |= {f"{OURS}_mean": cell["mean"], f"{OURS}_std": cell["std"]}
            records.append({**record, "n": cell["count"], SEEDS: cell["size"]})
    data = pd.DataFrame(records)
    order = [*printed.tasks, AVERAGE]
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
            if row[SEEDS] and not row["n"]:
                line[f"{row['criterion']}: {OURS}"] = UNDEFINED
        lines.append(line)
    return pd.DataFrame(lines)


def _table(data: pd.DataFrame, text: str, used: pd.DataFrame, printed: Printed, deviations: Deviations) -> Table:
    note = f"{deviations.note} {beside.averages_note(printed.tasks).capitalize()}. {beside.BLANK}."
    missing = beside.missing_tasks(used, printed.tasks)
    return Table(shown(data), data.drop(columns=SEEDS), f"{text} {note}{missing}")


def _average(cells: dict[str, dict[str, float]]) -> dict[str, float]:
    sides = {key: average({task: cell[key] for task, cell in cells.items()}, cells) for key in ("mean", "std")}
    return {**sides, "count": min(cell["count"] for cell in cells.values()), "size": 0}


def _text(mean: float, deviation: float) -> str:
    return number(mean) + ("" if np.isnan(deviation) or np.isnan(mean) else f" ± {deviation:.2f}")
