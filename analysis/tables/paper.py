"""The paper's tables with its numbers beside ours: each a declaration, the form of several in one place."""

from functools import partial

import pandas as pd

from analysis import paper
from analysis.registry import OF_MODEL, Table, table
from analysis.tables.beside import bert, llama
from analysis.tables.methods import methods_table
from analysis.tables.orthogonality import orthogonality_table
from analysis.tables.spread import OF_BERT, OF_LLAMA, OF_LLAMA_SEEDS, seeds_table, sizes_table
from analysis.text.labels import CRITERION_NAMES

ONE_SIZE, SIZES = "with one calibration size", "with at least two calibration sizes"
REASONED = "HellaSwag, WinoGrande or ARC-c"  # tasks of tables 10 and 12
OF_EACH = "of each criterion on GLUE at 10, 30 and 50 %"
OVER = "Mean and standard deviation over"


def table1(rows: pd.DataFrame) -> Table:
    """Returns quality in percent as the paper maps it."""
    title = (
        "Quality (%: accuracy; MRPC: F1; CoLA and STS-B: a correlation r as (r + 1) / 2), beside the paper's table 1"
    )
    return methods_table(rows, "quality", paper.read_paper("table1_bert_glue_quality"), title)


def table2(rows: pd.DataFrame) -> Table:
    """Returns the agreement with the unpruned model in percent."""
    title = (
        "Stability (%, agreement with the unpruned model), beside the paper's table 2, whose one line LLM-Pruner is "
        "set beside the block-wise method"
    )
    names = {"LLM-Pruner": CRITERION_NAMES["llm_pruner_block"]}
    printed = paper.read_paper("table2_bert_glue_stability").replace({"method": names})
    return methods_table(rows, "stability", printed, title)


table7 = partial(orthogonality_table, printed=bert(7, "table7_8_orthogonality"), heads="144")
table8 = partial(orthogonality_table, printed=llama(8, "table7_8_orthogonality"), heads="1,024")
table9 = partial(seeds_table, printed=bert(9, "table9_bert_seeds"), deviations=OF_BERT)
table10 = partial(seeds_table, printed=llama(10, "table10_llama_seeds"), deviations=OF_LLAMA_SEEDS)
table11 = partial(sizes_table, printed=bert(11, "table11_bert_calibration"), deviations=OF_BERT)
table12 = partial(sizes_table, printed=llama(12, "table12_llama_calibration"), deviations=OF_LLAMA)

for make, name, about, needs in (
    (table1, "table1", f"Quality {OF_EACH}, the paper's numbers (BERT-base) beside ours.",
     f"rows of GLUE tasks {ONE_SIZE}"),
    (table2, "table2", f"Stability {OF_EACH}, the paper's numbers (BERT-base) beside ours.",
     f"rows of GLUE tasks {ONE_SIZE}"),
    (table7, "table7", "Orthogonality of HIS and AE over the heads, the paper's numbers (BERT-base) beside ours.",
     f"rows and score files of his on GLUE tasks {ONE_SIZE}"),
    (table8, "table8", "Orthogonality of HIS and AE over the heads, the paper's numbers (LLaMA-2-7B) beside ours.",
     f"rows and score files of his on HellaSwag, WinoGrande, ARC or OBQA {ONE_SIZE}"),
    (table9, "table9", f"{OVER} seeds of HIS and HIES on GLUE, the paper's (BERT-base) beside ours.",
     f"rows of his and hies on GLUE tasks {ONE_SIZE}"),
    (table10, "table10", f"{OVER} seeds of HIS and HIES, the paper's (LLaMA-2-7B) beside ours.",
     f"rows of his and hies on {REASONED} {ONE_SIZE}"),
    (table11, "table11", f"{OVER} calibration sizes of HIS and HIES on GLUE, the paper's beside ours.",
     f"rows of his and hies on GLUE tasks {SIZES}"),
    (table12, "table12", f"{OVER} calibration sizes of HIS and HIES, the paper's (LLaMA-2-7B) beside ours.",
     f"rows of his and hies on {REASONED} {SIZES}"),
):  # fmt: skip
    table(name, about, needs, OF_MODEL)(make)
