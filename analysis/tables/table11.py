"""Table 11 of the paper: HIS and HIES over calibration sizes, BERT on GLUE."""

import pandas as pd

from analysis.registry import Table, table
from analysis.tables.beside import bert
from analysis.tables.spread import OF_BERT, sizes_table


@table(
    "table11",
    about="Mean and standard deviation over calibration sizes of HIS and HIES on GLUE, the paper's beside ours.",
    needs="rows of his and hies on GLUE tasks with at least two calibration sizes",
    per=("experiment", "model"),
)
def table11(rows: pd.DataFrame) -> Table:
    """For every size the mean over its seeds, then mean and deviation over the sizes."""
    return sizes_table(rows, bert(11, "table11_bert_calibration"), OF_BERT)
