"""Table 9 of the paper: HIS and HIES over calibration seeds, BERT on GLUE."""

import pandas as pd

from analysis.registry import Table, table
from analysis.tables.beside import bert
from analysis.tables.spread import OF_BERT, seeds_table


@table(
    "table9",
    about="Mean and standard deviation over seeds of HIS and HIES on GLUE, the paper's (BERT-base) beside ours.",
    needs="rows of his and hies on GLUE tasks with one calibration size",
    per=("experiment", "model"),
)
def table9(rows: pd.DataFrame) -> Table:
    """A line for each task and ratio; HIES with alpha per ratio if that is there."""
    return seeds_table(rows, bert(9, "table9_bert_seeds"), OF_BERT)
