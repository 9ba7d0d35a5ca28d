"""Which rows may be compared: those of one seed and one protocol."""

import pandas as pd

from analysis.errors import Unavailable
from analysis.text import choice
from analysis.text.labels import ordered_curves
from analysis.text.measures import MEASURE_OF

# What two jobs must share to be compared.
PROTOCOL_KEYS = ["experiment", "model", "task", "split", "scope", "schedule", "step", "min_heads_per_layer", "unit",
                 "plain", "sites", "precision", "calibration_size", "calibration_examples", "calibration_labels",
                 "examples", "checkpoint", "data", "seed"]  # fmt: skip


def one_calibration_size(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows themselves, if their calibration sets have one size.

    Raises:
        Unavailable: they have several.
    """
    sizes = sorted(rows["calibration_size"].unique())
    if len(sizes) > 1:
        raise Unavailable(f"it takes one calibration size, and there are {', '.join(map(str, sizes))}")
    return rows


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns HIES rows of the pruned models with the difference to the HIS row of the same seed and protocol.

    Columns beyond the row's: path_his, and of each measure that of HIS and the difference (quality_his, quality_gain).

    Raises:
        Unavailable: no HIES row has a partner, or some have several.
    """
    keys = [key for key in (*PROTOCOL_KEYS, "ratio") if key in rows]
    rows = rows[rows["ratio"] > 0]
    hies, his = rows[rows["criterion"] == "hies"], rows[rows["criterion"] == "his"]
    if his.duplicated(keys).any():
        raise Unavailable(f"it cannot choose between several curves of HIS: {', '.join(ordered_curves(his))}")
    pairs = hies.merge(his[[*keys, *MEASURE_OF, "path"]], on=keys, suffixes=("", "_his"))
    if pairs.empty:
        raise Unavailable("no row of hies has a row of his with the same seed and protocol")
    for measure in MEASURE_OF:
        pairs[f"{measure}_gain"] = pairs[measure] - pairs[f"{measure}_his"]
    return pairs


def his_and_usual_hies(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of HIS and of HIES with the usual alpha: per ratio, else per task, else auto, else a number.

    HIES of another importance than HIS is left out where there is one of HIS.

    Raises:
        Unavailable: several curves have rows of one task, calibration size, ratio and seed.
    """
    his, usual = rows["criterion"] == "his", choice.usual_run(rows, "hies")
    if usual.empty:
        return rows[his]
    same = choice.of_his(rows) == choice.of_his(usual).iloc[0]
    both = rows[his | ((rows["criterion"] == "hies") & same & (rows["alpha"] == usual["alpha"].iloc[0]))]
    if both.duplicated(["criterion", "task", "ratio", "calibration_size", "seed"]).any():
        raise Unavailable(f"it cannot choose between several curves: {', '.join(sorted(both['curve'].unique()))}")
    return both


def with_references(jobs: pd.DataFrame, references: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Returns a line for each job and each reference that shares the keys: `against` (its curve), `path_against`.

    Keys that rows lack are shared by all of them.
    """
    there, names = [key for key in keys if key in jobs], {"curve": "against", "path": "path_against"}
    return jobs.merge(references[[*there, "curve", "path"]].rename(columns=names), on=there)


def against_hies(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns a line for each job and each of its references of the same task and seed, as `with_references`.

    The reference of every curve is the usual HIES; that of HIES with another importance also the criterion of it alone.

    Raises:
        Unavailable: there is no HIES, or nothing beside it.
    """
    jobs = rows[rows["ratio"] > 0].drop_duplicates("path")
    hies = choice.plainest(jobs, "hies")
    if hies is None or jobs["curve"].nunique() < 2:
        raise Unavailable("it takes rows of hies and of another criterion at a pruned ratio")
    keys = ["task", "seed", "checkpoint", "data"]
    pairs = [with_references(jobs[jobs["curve"] != hies], jobs[jobs["curve"] == hies], keys)]
    for kind in jobs["importance"].dropna().unique() if "importance" in jobs else ():
        pairs.append(with_references(jobs[jobs["importance"] == kind], jobs[jobs["criterion"] == kind], keys))
    return pd.concat(pairs, ignore_index=True)
