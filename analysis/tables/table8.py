"""Table 8 of the paper: whether HIS and AE say the same thing about the heads of LLaMA-2."""

import pandas as pd

from analysis.registry import Table, table
from analysis.tables.beside import llama
from analysis.tables.orthogonality import orthogonality_table


@table(
    "table8",
    about="Orthogonality of HIS and AE over the heads, the paper's numbers (LLaMA-2-7B) beside ours.",
    needs="rows and score files of his on HellaSwag, WinoGrande, ARC or OBQA with one calibration size",
    per=("experiment", "model"),
)
def table8(rows: pd.DataFrame) -> Table:
    """On the paper's five language tasks."""
    return orthogonality_table(rows, llama(8, "table7_8_orthogonality"), "1,024")
