"""Table 2 of the paper: stability on GLUE."""

import pandas as pd

from analysis import paper
from analysis.labels import CRITERIA
from analysis.registry import Table, table
from analysis.tables.methods import methods_table

BLOCK = CRITERIA["llm_pruner_block"]


@table(
    "table2",
    about="Stability of each criterion on GLUE at 10, 30 and 50 %, the paper's numbers (BERT-base) beside ours.",
    needs="rows of GLUE tasks with one calibration size",
    per=("experiment", "model"),
)
def table2(rows: pd.DataFrame) -> Table:
    """Agreement with the unpruned model in percent."""
    title = (
        "Stability (%, agreement with the unpruned model), beside the paper's table 2, whose one line LLM-Pruner is "
        "set beside the block-wise method"
    )
    printed = paper.read("table2_bert_glue_stability").replace({"method": {"LLM-Pruner": BLOCK}})
    return methods_table(rows, "stability", printed, title)
