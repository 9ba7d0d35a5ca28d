"""Mean and standard deviation of HIS and HIES, a line for each task and ratio (tables 3 and 9 to 12)."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import paper
from analysis.errors import Unavailable
from analysis.registry import OF_MODEL, Table, table
from analysis.stats.pairing import one_calibration_size
from analysis.tables import beside
from analysis.tables.beside import AVERAGE, BLANK_NOTE, OURS, PAPER, Printed, average
from analysis.tables.measures import UNDEFINED
from analysis.text.captions import caption
from analysis.text.labels import label, named_tasks, ordered_tasks, task_name
from analysis.text.numbers import number, percent

SIDES = {"his": "HIS", "hies": "HIES"}
SAMPLE_NOTE = (
    "The standard deviation is that of a sample (n - 1), in percentage points; the paper prints it as a fraction"
)


class Deviations(NamedTuple):
    """What the paper's deviations are multiplied by to be percentage points; NaN: they are left out.

    Attributes:
        usually: the factor.
        by_task: the factor of tasks that have another.
        note: for the caption, beginning with how ours is computed.
    """

    usually: float
    by_task: dict[str, float]
    note: str


# The paper prints the deviations of these metrics as fractions, all others in percentage points.
OF_BERT = Deviations(
    1,
    {"cola": 100, "mrpc": 100, "stsb": 100, AVERAGE: np.nan},
    f"{SAMPLE_NOTE} for CoLA, MRPC and STS-B, which is multiplied by 100 here, and its averages of both units are left "
    "out. STS-B is 100 r, not mapped.",
)
OF_LLAMA = Deviations(100, {}, f"{SAMPLE_NOTE}, which is multiplied by 100 here.")
# On two tasks table 10 has, in the place of the deviation, the mean divided by 100 in every one of its 20 cells.
OF_LLAMA_SEEDS = Deviations(
    100,
    {"hellaswag": np.nan, "winogrande": np.nan},
    f"{SAMPLE_NOTE}, which is multiplied by 100 here; for HellaSwag and WinoGrande it prints the mean over again, "
    "which is left out.",
)
NONE_PRINTED = Deviations(1, {}, "Ours: mean ± standard deviation over seeds, that of a sample (n - 1)")


@table(
    "table3",
    about="Quality of HIS and HIES on images, and on images with questions, the paper's (ViT-Large, LLaVA-1.5) beside.",
    needs="rows of his and hies on CIFAR-100, ImageNet-1k, VizWiz or MM-Vet with one calibration size",
    per=OF_MODEL,
)
def table3(rows: pd.DataFrame) -> Table:
    """Returns a line for each task and ratio of the paper's models that share a task with these rows."""
    numbers = paper.read_paper("table3_vit_llava")
    models = numbers.loc[numbers["task"].isin(rows["task"]), "model"].unique()
    if not len(models):
        raise Unavailable(f"there are no rows on {named_tasks(ordered_tasks(numbers['task']))}")
    printed = Printed(3, " and ".join(models), numbers[numbers["model"].isin(models)])
    used, curve = _of_one_size(rows, printed)
    data = deviations_of(used, printed, NONE_PRINTED)
    text = f"Quality (%), beside the paper's table 3 ({printed.model}): {caption(used)}. {NONE_PRINTED.note}; {curve}. "
    if ((data["seeds"] > 0) & (data["n"] == 0)).any():
        text += f"{UNDEFINED.capitalize()}: no run has a quality (MM-Vet takes a judge of the answers). "
    return _table(data, f"{text}{BLANK_NOTE}.", used, printed)


def seeds_table(rows: pd.DataFrame, printed: Printed, deviations: Deviations) -> Table:
    """Returns mean and deviation over the seeds; HIES with alpha per ratio if that is there.

    Raises:
        Unavailable: several calibration sizes, or as `his_and_hies`.
    """
    used, curve = _of_one_size(rows, printed)
    data = deviations_of(used, printed, deviations)
    text = f"Mean ± standard deviation over seeds (%), beside the paper's table {printed.table} ({printed.model}): "
    return _table(data, f"{text}{caption(used)}. Ours: {curve}. {_note(printed, deviations)}", used, printed)


def sizes_table(rows: pd.DataFrame, printed: Printed, deviations: Deviations) -> Table:
    """Returns for every calibration size the mean over its seeds, then mean and deviation over the sizes.

    Raises:
        Unavailable: fewer than two calibration sizes, or as `his_and_hies`.
    """
    used = his_and_hies(rows, printed)
    sizes = sorted(used["calibration_size"].unique())
    if len(sizes) < 2:
        raise Unavailable(f"it takes at least two calibration sizes, and there is only {sizes[0]}")
    by_size = used.groupby(["task", "ratio", "criterion", "calibration_size"])["percent"].mean().reset_index()
    data = deviations_of(by_size, printed, deviations)
    name = label("hies", {"alpha": used.loc[used["criterion"] == "hies", "alpha"].iloc[0]})
    text = (
        f"Mean ± standard deviation over the calibration sizes {', '.join(map(str, sizes))} (%; of each size the mean "
        f"over its seeds), beside the paper's table {printed.table} ({printed.model}): {caption(used)}. Ours: {name}. "
    )
    return _table(data, f"{text}{_note(printed, deviations)}", used, printed)


def his_and_hies(rows: pd.DataFrame, printed: Printed) -> pd.DataFrame:
    """Returns the rows of HIS and the usual HIES at the paper's ratios, with `percent`: quality, but of STS-B 100 r.

    Raises:
        Unavailable: one of the two criteria has no rows there, or several runs of one seed and calibration size.
    """
    rows = beside.at_ratios(rows, printed.numbers["ratio"].unique(), printed.tasks)
    rows = pd.concat([rows[rows["criterion"] == "his"], beside.usual_hies(rows)])
    if set(rows["criterion"]) != set(SIDES):
        raise Unavailable(f"it takes rows of his and of hies on {printed.kind}, at the paper's ratios")
    keys = ["criterion", "task", "ratio", "calibration_size", "seed"]
    if rows.duplicated(keys).any():
        raise Unavailable(f"it cannot choose between several curves: {', '.join(sorted(rows['curve'].unique()))}")
    return rows.assign(percent=np.where(rows["metric"] == "pearson", 100 * rows["value"], rows["quality"]))


def deviations_of(values: pd.DataFrame, printed: Printed, deviations: Deviations) -> pd.DataFrame:
    """Returns mean, std, n (defined values) and seeds (all) of `percent` for each task, ratio and criterion.

    Args:
        values: columns task, ratio, criterion and percent, a line for each seed or calibration size.
        printed: what the paper prints.
        deviations: how it prints them.
    """
    parts = values.groupby(["task", "ratio", "criterion"])["percent"]
    ours = parts.agg(["mean", "std", "count", "size"]).to_dict("index")
    nothing = {"mean": np.nan, "std": np.nan, "count": 0, "size": 0}
    records = []
    for row in printed.numbers.to_dict("records"):
        factor = deviations.by_task.get(row["task"], deviations.usually)
        for criterion, name in SIDES.items():
            cells = {task: ours.get((task, row["ratio"], criterion), nothing) for task in printed.tasks}
            cell = _average(cells) if row["task"] == AVERAGE else cells[row["task"]]
            record = {"task": row["task"], "ratio": row["ratio"], "criterion": name}
            record[f"{PAPER}_mean"] = row[f"{name}_percent"]
            record[f"{PAPER}_std"] = factor * row.get(f"{name}_std_as_printed", np.nan)
            record |= {f"{OURS}_mean": cell["mean"], f"{OURS}_std": cell["std"]}
            records.append({**record, "n": cell["count"], "seeds": cell["size"]})
    data = pd.DataFrame(records)
    order = [*printed.tasks, AVERAGE]
    return data.sort_values("task", key=lambda tasks: tasks.map(order.index), kind="stable", ignore_index=True)


def _of_one_size(rows: pd.DataFrame, printed: Printed) -> tuple[pd.DataFrame, str]:
    """The rows of one calibration size, and the curve of HIES."""
    used = his_and_hies(one_calibration_size(rows[rows["task"].isin(printed.tasks)]), printed)
    return used, used.loc[used["criterion"] == "hies", "curve"].iloc[0]


def _table(data: pd.DataFrame, text: str, used: pd.DataFrame, printed: Printed) -> Table:
    """A line for each task and ratio, `mean ± std` in a column for each criterion and side."""
    most = data["n"].max()
    lines = []
    for (task, ratio), part in data.groupby(["task", "ratio"], sort=False):
        line = {"task": task_name(str(task)), "removed": percent(float(str(ratio)))}
        for row in part.to_dict("records"):
            for side in (PAPER, OURS):
                line[f"{row['criterion']}: {side}"] = _cell(row, side, most)
        lines.append(line)
    caption = f"{text}{beside.missing_tasks(used, printed.tasks)}"
    return Table(pd.DataFrame(lines), data.drop(columns="seeds"), caption)


def _cell(row: dict[object, object], side: str, most: int) -> str:
    mean, deviation = (float(str(row[f"{side}_{key}"])) for key in ("mean", "std"))
    if side == OURS and row["seeds"] and not row["n"]:
        return UNDEFINED
    text = number(mean) + ("" if np.isnan(deviation) or np.isnan(mean) else f" ± {deviation:.2f}")
    return f"{text} (n = {row['n']})" if side == OURS and text and row["n"] != most else text


def _note(printed: Printed, deviations: Deviations) -> str:
    return f"{deviations.note} {beside.averages_note(printed.tasks).capitalize()}. {BLANK_NOTE}."


def _average(cells: dict[str, dict[str, float]]) -> dict[str, float]:
    sides = {key: average({task: cell[key] for task, cell in cells.items()}, cells) for key in ("mean", "std")}
    return {**sides, "count": min(cell["count"] for cell in cells.values()), "size": 0}
