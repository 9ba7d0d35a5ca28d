"""Table 12 of the paper: HIS and HIES over calibration sizes, LLaMA-2 on three language tasks."""

import pandas as pd

from analysis.registry import Table, table
from analysis.tables.beside import llama
from analysis.tables.spread import OF_LLAMA, sizes_table


@table(
    "table12",
    about="Mean and standard deviation over calibration sizes of HIS and HIES, the paper's (LLaMA-2-7B) beside ours.",
    needs="rows of his and hies on HellaSwag, WinoGrande or ARC-c with at least two calibration sizes",
    per=("experiment", "model"),
)
def table12(rows: pd.DataFrame) -> Table:
    """For every size the mean over its seeds, then mean and deviation over the sizes."""
    return sizes_table(rows, llama(12, "table12_llama_calibration"), OF_LLAMA)
