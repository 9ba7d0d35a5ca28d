"""Table 1 of the paper: quality on GLUE."""

import pandas as pd

from analysis import paper
from analysis.registry import Table, table
from analysis.tables.methods import methods_table


@table(
    "table1",
    about="Quality of each criterion on GLUE at 10, 30 and 50 %, the paper's numbers (BERT-base) beside ours.",
    needs="rows of GLUE tasks with one calibration size",
    per=("experiment", "model"),
)
def table1(rows: pd.DataFrame) -> Table:
    """Quality in percent as the paper maps it."""
    title = (
        "Quality (%: accuracy; MRPC: F1; CoLA and STS-B: a correlation r as (r + 1) / 2), beside the paper's table 1"
    )
    return methods_table(rows, "quality", paper.read("table1_bert_glue_quality"), title)
