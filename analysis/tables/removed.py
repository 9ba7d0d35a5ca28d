"""What each method really removes: parameters and FLOPs left at each ratio, and the seconds that it takes to prune."""

import pandas as pd

from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.text.captions import caption, percent
from analysis.text.labels import in_order

PARTS_LEFT = {"parameters": "parameters left", "flops": "FLOPs left"}


@table(
    "removed",
    about="Parameters and FLOPs that each criterion leaves at each ratio, and the seconds of scoring and pruning.",
    needs="rows of a pruned ratio with parameters and FLOPs",
)
def removed_table(rows: pd.DataFrame) -> Table:
    """Returns percent of the dense model; means over tasks and seeds, seconds the median over them."""
    rows = rows[rows["parameters"].notna() & rows["flops"].notna()]
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are no rows of a pruned ratio with parameters and FLOPs")
    data = parts_left(rows)
    columns = {"removed": data["ratio"].map(percent), "criterion": data["curve"]}
    columns |= {words: data[name].map("{:.1f} %".format) for name, words in PARTS_LEFT.items()}
    text = (
        f"Parameters and FLOPs left, in percent of the dense model: {caption(rows)}. A ratio is a share of the "
        "attention weights. Heads and channels leave MLPs and embeddings whole; slicing narrows the MLPs as well, and "
        "adds a matrix to every shortcut. Seconds: calibration pass, search or tuning before the first answer, median "
        "over runs on the machine that they ran on; several criteria share one calibration pass."
    )
    return Table(pd.DataFrame(columns | {"seconds": data["seconds"].map("{:.1f}".format)}), data, text)


def parts_left(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns for each curve and pruned ratio parameters and flops in percent of the unpruned model, and seconds."""
    shares = {name: percent_of_dense(rows, name) for name in PARTS_LEFT}
    pruned = rows.assign(**shares)[rows["ratio"] > 0]
    groups = pruned.groupby(["ratio", "curve"])
    means = groups.agg(parameters=("parameters", "mean"), flops=("flops", "mean"), seconds=("score_seconds", "median"))
    return in_order(means.reset_index(), rows, ["ratio", "curve"])


def percent_of_dense(rows: pd.DataFrame, name: str) -> pd.Series:
    """Returns a column of the rows in percent of its value for the run's unpruned model; NaN if unknown."""
    dense = rows[rows["ratio"] == 0].drop_duplicates("path").set_index("path")[name]
    return 100 * pd.to_numeric(rows[name]) / rows["path"].map(pd.to_numeric(dense))
