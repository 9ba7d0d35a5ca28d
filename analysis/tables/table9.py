"""Table 9 of the paper: HIS and HIES over calibration seeds."""

import pandas as pd

from analysis import paper
from analysis.captions import caption
from analysis.labels import TASKS
from analysis.registry import Table, table
from analysis.tables.beside import missing_tasks, one_calibration_size
from analysis.tables.spread import NOTE, samples, shown, spread


@table(
    "table9",
    about="Mean and standard deviation over seeds of HIS and HIES on GLUE, the paper's (BERT-base) beside ours.",
    needs="rows of his and hies on GLUE tasks with one calibration size",
    per=("experiment", "model"),
)
def table9(rows: pd.DataFrame) -> Table:
    """A line for each task and ratio; HIES with alpha per ratio if that is there."""
    printed = paper.read("table9_bert_seeds")
    used = samples(one_calibration_size(rows[rows["task"].isin(TASKS)]), printed)
    data = spread(used, printed)
    curve = used.loc[used["criterion"] == "hies", "curve"].iloc[0]
    text = f"Mean ± standard deviation over seeds (%), beside the paper's table 9 (BERT-base): {caption(used)}. "
    return Table(shown(data), data, f"{text}Ours: {curve}. {NOTE}{missing_tasks(used)}")
