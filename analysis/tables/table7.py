"""Table 7 of the paper: whether HIS and AE say the same thing about the heads of BERT."""

import pandas as pd

from analysis.registry import Table, table
from analysis.tables.beside import bert
from analysis.tables.orthogonality import orthogonality_table


@table(
    "table7",
    about="Orthogonality of HIS and AE over the heads, the paper's numbers (BERT-base) beside ours.",
    needs="rows and score files of his on GLUE tasks with one calibration size",
    per=("experiment", "model"),
)
def table7(rows: pd.DataFrame) -> Table:
    """On the tasks of GLUE."""
    return orthogonality_table(rows, bert(7, "table7_8_orthogonality"), "144")
