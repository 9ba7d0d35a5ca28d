"""What each method really removes: parameters and FLOPs left at each ratio, and the seconds that it takes to prune."""

import pandas as pd

from analysis.captions import caption, percent
from analysis.errors import Unavailable
from analysis.labels import ordered_curves
from analysis.registry import Table, table

MEASURES = {"parameters": "parameters left", "flops": "FLOPs left"}


@table(
    "removed",
    about="Parameters and FLOPs that each criterion leaves at each ratio, and the seconds of scoring and pruning.",
    needs="rows of a pruned ratio with parameters and FLOPs",
    per=("experiment", "model"),
)
def removed(rows: pd.DataFrame) -> Table:
    """Percent of the dense model; means over tasks and seeds, seconds the median over them."""
    rows = rows[rows["parameters"].notna() & rows["flops"].notna()]
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are no rows of a pruned ratio with parameters and FLOPs")
    data = lines(rows)
    text = (
        f"Parameters and FLOPs left, in percent of the dense model: {caption(rows)}. A ratio is a share of the "
        "attention weights. Heads and channels leave MLPs and embeddings whole; slicing narrows the MLPs as well, and "
        "adds a matrix to every shortcut. Seconds: calibration pass, search or tuning before the first answer, median "
        "over runs on the machine that they ran on; several criteria share one calibration pass."
    )
    return Table(_shown(data), data, text)


def lines(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each curve and pruned ratio: parameters and flops in percent of the run's unpruned model, seconds."""
    dense = rows[rows["ratio"] == 0].drop_duplicates("path").set_index("path")
    pruned = rows[rows["ratio"] > 0]
    shares = {
        name: 100 * pd.to_numeric(pruned[name]) / pruned["path"].map(pd.to_numeric(dense[name])) for name in MEASURES
    }
    groups = pruned.assign(**shares).groupby(["ratio", "curve"])
    found = groups.agg(parameters=("parameters", "mean"), flops=("flops", "mean"), seconds=("score_seconds", "median"))
    order = {curve: place for place, curve in enumerate(ordered_curves(rows))}
    found = found.reset_index()
    return found.sort_values(["ratio", "curve"], key=lambda c: c.map(order) if c.name == "curve" else c)


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    columns = {"removed": data["ratio"].map(percent), "criterion": data["curve"]}
    columns |= {words: data[name].map("{:.1f} %".format) for name, words in MEASURES.items()}
    return pd.DataFrame(columns | {"seconds": data["seconds"].map("{:.1f}".format)})
