"""Which rows of HIES and HIS may be compared: those of one seed and one protocol."""

import pandas as pd

from analysis.errors import Unavailable
from analysis.labels import ordered_curves

# What a HIES job and a HIS job must share to be compared.
PAIR = ["experiment", "model", "task", "split", "scope", "schedule", "step", "min_heads_per_layer", "unit",
        "sites", "calibration_size", "examples", "seed", "ratio"]  # fmt: skip
MEASURES = ("quality", "stability")


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """HIES rows of the pruned models with the difference to the HIS row of the same seed and protocol.

    Columns beyond the row's: quality_his, stability_his, path_his, quality_gain, stability_gain.

    Raises:
        Unavailable: no HIES row has a partner, or some have several.
    """
    keys = [key for key in PAIR if key in rows]
    rows = rows[rows["ratio"] > 0]
    hies, his = rows[rows["criterion"] == "hies"], rows[rows["criterion"] == "his"]
    if his.duplicated(keys).any():
        raise Unavailable(f"it cannot choose between several curves of HIS: {', '.join(ordered_curves(his))}")
    pairs = hies.merge(his[[*keys, *MEASURES, "path"]], on=keys, suffixes=("", "_his"))
    if pairs.empty:
        raise Unavailable("no row of hies has a row of his with the same seed and protocol")
    for measure in MEASURES:
        pairs[f"{measure}_gain"] = pairs[measure] - pairs[f"{measure}_his"]
    return pairs
