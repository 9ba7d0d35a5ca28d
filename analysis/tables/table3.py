"""Table 3 of the paper: HIS and HIES on images (ViT-Large) and on images with questions (LLaVA-1.5)."""

import pandas as pd

from analysis import paper
from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.labels import named_tasks, ordered_tasks
from analysis.registry import Table, table
from analysis.tables.beside import BLANK, Printed, missing_tasks, one_calibration_size
from analysis.tables.measures import UNDEFINED
from analysis.tables.spread import SEEDS, Deviations, samples, shown, spread

NONE_PRINTED = Deviations(1, {}, "Ours: mean ± standard deviation over seeds, that of a sample (n - 1)")


@table(
    "table3",
    about="Quality of HIS and HIES on images, and on images with questions, the paper's (ViT-Large, LLaVA-1.5) beside.",
    needs="rows of his and hies on CIFAR-100, ImageNet-1k, VizWiz or MM-Vet with one calibration size",
    per=("experiment", "model"),
)
def table3(rows: pd.DataFrame) -> Table:
    """A line for each task and ratio of the paper's models that share a task with these rows."""
    printed = _printed(rows)
    used = samples(one_calibration_size(rows[rows["task"].isin(printed.tasks)]), printed)
    data = spread(used, printed, NONE_PRINTED)
    curve = used.loc[used["criterion"] == "hies", "curve"].iloc[0]
    text = f"Quality (%), beside the paper's table 3 ({printed.model}): {caption(used)}. {NONE_PRINTED.note}; {curve}. "
    if ((data[SEEDS] > 0) & (data["n"] == 0)).any():
        text += f"{UNDEFINED.capitalize()}: no run has a quality (MM-Vet takes a judge of the answers). "
    return Table(shown(data), data.drop(columns=SEEDS), f"{text}{BLANK}.{missing_tasks(used, printed.tasks)}")


def _printed(rows: pd.DataFrame) -> Printed:
    numbers = paper.read("table3_vit_llava")
    models = numbers.loc[numbers["task"].isin(rows["task"]), "model"].unique()
    if not len(models):
        raise Unavailable(f"there are no rows on {named_tasks(ordered_tasks(numbers['task']))}")
    return Printed(3, " and ".join(models), numbers[numbers["model"].isin(models)])
