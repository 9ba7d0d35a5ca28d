"""Mean and standard deviation of HIS and HIES, a line for each task and ratio (tables 3 and 9 to 12)."""

from collections.abc import Collection
from functools import partial

import numpy as np
import pandas as pd

from analysis import paper
from analysis.data.chance import at_chance
from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.stats.pairing import his_and_usual_hies, one_calibration_size
from analysis.tables import beside
from analysis.tables.beside import AVERAGE, BERT, BLANK_NOTE, LLAMA, ONE_SIZE, OURS, PAPER, Printed, printed_of
from analysis.tables.measures import UNDEFINED
from analysis.text.captions import caption, number, percent
from analysis.text.labels import (
    LANGUAGE_NAMES,
    QUESTION_NAMES,
    VISION_NAMES,
    label,
    named_tasks,
    ordered_tasks,
    task_name,
)
from analysis.text.measures import chance_note

SIDES = {"his": "HIS", "hies": "HIES"}
SAMPLE_NOTE = (
    "The standard deviation is that of a sample (n - 1), in percentage points; the paper prints it as a fraction"
)


def _printed(table: int, file: str, model: str, factor: float, by_task: dict[str, float], note: str) -> Printed:
    """Multiplies the paper's deviations to be percentage points, those of some tasks by a factor of their own.

    Where a factor is NaN they are left out. The note begins with how ours is computed.
    """
    printed = printed_of(table, file, model)
    alike = () if model == BERT else (*LANGUAGE_NAMES, *QUESTION_NAMES, *VISION_NAMES)
    factors = [by_task.get(task, factor) for task in printed.numbers["task"]]
    deviations = printed.numbers.filter(like="_std_as_printed").mul(factors, axis=0)
    note = f"{SAMPLE_NOTE}{note} {beside.averages_note(printed.tasks).capitalize()}. {BLANK_NOTE}."
    return printed._replace(numbers=printed.numbers.assign(**deviations), note=note, alike=alike)


@table(
    "table3",
    about="Quality of HIS and HIES on images, and on images with questions, the paper's (ViT-Large, LLaVA-1.5) beside.",
    needs=f"rows of his and hies on CIFAR-100, ImageNet-1k, VizWiz or MM-Vet {ONE_SIZE}",
)
def table3(rows: pd.DataFrame) -> Table:
    """Returns a line for each task and ratio of the paper's models that share a task with these rows."""
    numbers = paper.read_paper("table3_vit_llava")
    models = numbers.loc[numbers["task"].isin(rows["task"]), "model"].unique()
    if len(models):
        printed = Printed(3, " and ".join(models), numbers[numbers["model"].isin(models)])
    else:
        every = " and ".join(numbers["model"].unique())
        printed = Printed(3, every, numbers, alike=(*VISION_NAMES, *QUESTION_NAMES)).fitting(rows)
    if not rows["task"].isin(printed.tasks).any():
        raise Unavailable(f"there are no rows on {named_tasks(ordered_tasks(numbers['task']))}")
    used = _of_one_size(rows, printed)
    data = _deviations(used, printed)
    text = f"Quality (%), beside the paper's table 3 ({printed.model}): {caption(used)}. "
    text += f"Ours: mean ± standard deviation over draws, that of a sample (n - 1); {_curve(used)}. "
    if ((data["seeds"] > 0) & (data["n"] == 0)).any():
        text += f"{UNDEFINED.capitalize()}: no run has a quality (MM-Vet takes a judge of the answers). "
    return _table(data, f"{text}{BLANK_NOTE}. {printed.note}".strip(), used, printed)


def _seeds_table(rows: pd.DataFrame, printed: Printed) -> Table:
    """Mean and deviation over the seeds; HIES with alpha per ratio if that is there."""
    printed = printed.fitting(rows)
    used = _of_one_size(rows, printed)
    text = f"Mean ± standard deviation over draws (%), beside the paper's table {printed.table} ({printed.model}): "
    lost = at_chance(rows, "quality")
    text += f"{caption(used)}. Ours: {_curve(used)}. {printed.note}{chance_note(['quality'], _of(rows, printed))}"
    return _table(_deviations(used, printed, lost), text, used, printed)


def _sizes_table(rows: pd.DataFrame, printed: Printed) -> Table:
    """For every calibration size the mean over its seeds, then mean and deviation over the sizes."""
    printed = printed.fitting(rows)
    used = _his_and_hies(rows, printed)
    sizes = sorted(used["calibration_size"].unique())
    if len(sizes) < 2:
        raise Unavailable(f"it takes at least two calibration sizes, and there is only {sizes[0]}")
    by_size = used.groupby(["task", "ratio", "criterion", "calibration_size"])["percent"].mean().reset_index()
    data = _deviations(by_size, printed, at_chance(rows, "quality"))
    name = label("hies", {"alpha": used.loc[used["criterion"] == "hies", "alpha"].iloc[0]})
    text = (
        f"Mean ± standard deviation over the calibration sizes {', '.join(map(str, sizes))} (%; of each size the mean "
        f"over its draws), beside the paper's table {printed.table} ({printed.model}): {caption(used)}. Ours: {name}. "
    )
    text += f"{printed.note}{chance_note(['quality'], _of(rows, printed))}"
    return _table(data, text, used, printed)


def _of(rows: pd.DataFrame, printed: Printed) -> pd.DataFrame:
    return rows[rows["task"].isin(printed.tasks)]


def _his_and_hies(rows: pd.DataFrame, printed: Printed) -> pd.DataFrame:
    """The rows of HIS and the usual HIES at the paper's ratios, with `percent`: quality, but of STS-B 100 r."""
    rows = beside.at_ratios(rows, printed.numbers["ratio"].unique(), printed.tasks)
    rows = his_and_usual_hies(rows)
    if set(rows["criterion"]) != set(SIDES):
        raise Unavailable(f"it takes rows of his and of hies on {printed.kind}, at the paper's ratios")
    return rows.assign(percent=np.where(rows["metric"] == "pearson", 100 * rows["value"], rows["quality"]))


def _deviations(values: pd.DataFrame, printed: Printed, lost: Collection[str] = ()) -> pd.DataFrame:
    """Mean, std, n (defined) and seeds (all) of `percent` for each task, ratio and criterion, and the paper's.

    There is no average where a task of it is among the `lost`, those at chance.
    """
    parts = values.groupby(["task", "ratio", "criterion"])["percent"]
    ours = parts.agg(["mean", "std", "count", "size"]).to_dict("index")
    nothing = {"mean": np.nan, "std": np.nan, "count": 0, "size": 0}
    records = []
    for row in printed.numbers.to_dict("records"):
        for criterion, name in SIDES.items():
            cells = {task: ours.get((task, row["ratio"], criterion), nothing) for task in printed.tasks}
            averaged = {task: nothing if task in lost else cell for task, cell in cells.items()}
            cell = _average(averaged) if row["task"] == AVERAGE else cells[row["task"]]
            record = {"task": row["task"], "ratio": row["ratio"], "criterion": name}
            record[f"{PAPER}_mean"] = row[f"{name}_percent"]
            record[f"{PAPER}_std"] = row.get(f"{name}_std_as_printed", np.nan)
            record |= {f"{OURS}_mean": cell["mean"], f"{OURS}_std": cell["std"]}
            records.append({**record, "n": cell["count"], "seeds": cell["size"]})
    data = pd.DataFrame(records)
    order = [*printed.tasks, AVERAGE]
    return data.sort_values("task", key=lambda tasks: tasks.map(order.index), kind="stable", ignore_index=True)


def _of_one_size(rows: pd.DataFrame, printed: Printed) -> pd.DataFrame:
    return _his_and_hies(one_calibration_size(_of(rows, printed)), printed)


def _curve(used: pd.DataFrame) -> str:
    return used.loc[used["criterion"] == "hies", "curve"].iloc[0]


def _table(data: pd.DataFrame, text: str, used: pd.DataFrame, printed: Printed) -> Table:
    """A line for each task and ratio, `mean ± std` in a column for each criterion and side."""
    most = data["n"].max()

    def cells(row: dict) -> dict[str, str]:
        return {f"{row['criterion']}: {side}": _cell(row, side, most) for side in (PAPER, OURS)}

    named = data.assign(task=data["task"].map(task_name), removed=data["ratio"].map(percent))
    text += beside.missing_tasks(used, printed.tasks)
    return Table(beside.side_by_side(named, ["task", "removed"], cells), data.drop(columns="seeds"), text)


def _cell(row: dict, side: str, most: int) -> str:
    mean, deviation = (row[f"{side}_{key}"] for key in ("mean", "std"))
    if side == OURS and row["seeds"] and not row["n"]:
        return UNDEFINED
    text = number(mean) + ("" if np.isnan(deviation) or np.isnan(mean) else f" ± {deviation:.2f}")
    return f"{text} (n = {row['n']})" if side == OURS and text and row["n"] != most else text


def _average(cells: dict[str, dict[str, float]]) -> dict[str, float]:
    """Undefined where a task is."""
    means = {key: float(np.mean([cell[key] for cell in cells.values()])) for key in ("mean", "std")}
    return {**means, "count": min(cell["count"] for cell in cells.values()), "size": 0}


# The paper prints the deviations of these metrics as fractions, all others in percentage points.
FRACTIONS = {"cola": 100, "mrpc": 100, "stsb": 100, AVERAGE: np.nan}
BERT_NOTE = (
    " for CoLA, MRPC and STS-B, which is multiplied by 100 here, and its averages of both units are left out. STS-B is "
    "100 r, not mapped."
)
# On two tasks table 10 has, in the place of the deviation, the mean divided by 100 in every one of its 20 cells.
NO_DEVIATIONS = {"hellaswag": np.nan, "winogrande": np.nan}
TIMES_100 = ", which is multiplied by 100 here"
NO_DEVIATIONS_NOTE = f"{TIMES_100}; for HellaSwag and WinoGrande it prints the mean over again, which is left out."
OVER = "Mean and standard deviation over"
ON_GLUE, ON_LANGUAGE = "rows of his and hies on GLUE tasks", "rows of his and hies on HellaSwag, WinoGrande or ARC-c"
SEVERAL_SIZES = "with at least two calibration sizes"

table9 = table(
    "table9",
    f"{OVER} draws of HIS and HIES on GLUE, the paper's (BERT-base) beside ours.",
    f"{ON_GLUE} {ONE_SIZE}",
)(partial(_seeds_table, printed=_printed(9, "table9_bert_seeds", BERT, 1, FRACTIONS, BERT_NOTE)))
table10 = table(
    "table10",
    f"{OVER} draws of HIS and HIES, the paper's (LLaMA-2-7B) beside ours.",
    f"{ON_LANGUAGE} {ONE_SIZE}",
)(partial(_seeds_table, printed=_printed(10, "table10_llama_seeds", LLAMA, 100, NO_DEVIATIONS, NO_DEVIATIONS_NOTE)))
table11 = table(
    "table11",
    f"{OVER} calibration sizes of HIS and HIES on GLUE, the paper's beside ours.",
    f"{ON_GLUE} {SEVERAL_SIZES}",
)(partial(_sizes_table, printed=_printed(11, "table11_bert_calibration", BERT, 1, FRACTIONS, BERT_NOTE)))
table12 = table(
    "table12",
    f"{OVER} calibration sizes of HIS and HIES, the paper's (LLaMA-2-7B) beside ours.",
    f"{ON_LANGUAGE} {SEVERAL_SIZES}",
)(partial(_sizes_table, printed=_printed(12, "table12_llama_calibration", LLAMA, 100, {}, f"{TIMES_100}.")))
