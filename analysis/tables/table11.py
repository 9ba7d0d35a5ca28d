"""Table 11 of the paper: HIS and HIES over calibration sizes."""

import pandas as pd

from analysis import paper
from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.labels import label
from analysis.registry import Table, table
from analysis.tables.beside import missing_tasks
from analysis.tables.spread import NOTE, samples, shown, spread


@table(
    "table11",
    about="Mean and standard deviation over calibration sizes of HIS and HIES on GLUE, the paper's beside ours.",
    needs="rows of his and hies on GLUE tasks with at least two calibration sizes",
    per=("experiment", "model"),
)
def table11(rows: pd.DataFrame) -> Table:
    """For every size the mean over its seeds, then mean and deviation over the sizes."""
    printed = paper.read("table11_bert_calibration")
    used = samples(rows, printed)
    sizes = sorted(used["calibration_size"].unique())
    if len(sizes) < 2:
        raise Unavailable(f"it takes at least two calibration sizes, and there is only {sizes[0]}")
    by_size = used.groupby(["task", "ratio", "criterion", "calibration_size"])["percent"].mean().reset_index()
    data = spread(by_size, printed)
    name = label("hies", {"alpha": used.loc[used["criterion"] == "hies", "alpha"].iloc[0]})
    text = (
        f"Mean ± standard deviation over the calibration sizes {', '.join(map(str, sizes))} (%; of each size the mean "
    )
    text += f"over its seeds), beside the paper's table 11 (BERT-base): {caption(used)}. Ours: {name}. {NOTE}"
    return Table(shown(data), data, text + missing_tasks(used))
