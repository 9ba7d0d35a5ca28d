"""Table 10 of the paper: HIS and HIES over calibration seeds, LLaMA-2 on three language tasks."""

import pandas as pd

from analysis.registry import Table, table
from analysis.tables.beside import llama
from analysis.tables.spread import OF_LLAMA_SEEDS, seeds_table


@table(
    "table10",
    about="Mean and standard deviation over seeds of HIS and HIES, the paper's (LLaMA-2-7B) beside ours.",
    needs="rows of his and hies on HellaSwag, WinoGrande or ARC-c with one calibration size",
    per=("experiment", "model"),
)
def table10(rows: pd.DataFrame) -> Table:
    """A line for each task and ratio; HIES with alpha per ratio if that is there."""
    return seeds_table(rows, llama(10, "table10_llama_seeds"), OF_LLAMA_SEEDS)
