"""Which curve stands for a criterion where a figure has room for one; HIES comes with several ways to choose alpha."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import Unavailable

PREFERRED = ("per_ratio", "per_task", "auto")  # words of alpha, the paper's main protocol first
USUAL_ALPHA, USUAL_SIZE = 0.5, 32  # of several alphas and calibration sizes, those nearest to these


def is_number(alpha: Any) -> bool:
    """Returns whether alpha is fixed; words are ways to choose it, and criteria other than HIES have none."""
    return isinstance(alpha, int | float | np.number) and not pd.isna(alpha)


def word(row: Mapping[Hashable, Any]) -> str | None:
    """Returns how a row's alpha was chosen; None where it is a number or there is none."""
    alpha = row.get("alpha")
    return alpha if isinstance(alpha, str) else None


def of_his(rows: pd.DataFrame) -> pd.Series:
    """Returns for each row whether its importance is HIS, as the paper has it, or its criterion knows no other."""
    importance = rows["importance"] if "importance" in rows else pd.Series(index=rows.index, dtype=object)
    return importance.isna() | (importance == "his")


def plainest(rows: pd.DataFrame, criterion: str) -> str | None:
    """Returns a criterion's curve in its usual form: of HIS, preferred alpha, default calibration, fewest knobs."""
    same = rows[rows["criterion"] == criterion]
    usual = of_his(same)
    curves = (same[usual] if usual.any() else same).drop_duplicates("curve").to_dict("records")
    return min(curves, key=_plainness)["curve"] if curves else None


def with_word(rows: pd.DataFrame, alpha: str) -> str | None:
    """Returns the plainest curve of HIES whose alpha was chosen in the way `alpha`."""
    return plainest(rows[rows["alpha"].map(lambda value: value == alpha)], "hies") if "alpha" in rows else None


def usual_run(rows: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """Returns the rows of a criterion's plainest curve."""
    return rows[rows["curve"] == plainest(rows, criterion)]


def run_of_one_alpha(rows: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """Returns as `usual_run`, of the curves whose masks all come from one alpha; of any curve where none is so."""
    if "alpha_used" not in rows:
        return usual_run(rows, criterion)
    single = rows[rows["ratio"] > 0].groupby("curve")["alpha_used"].nunique() < 2
    one = rows[rows["curve"].isin(single[single].index)]
    return usual_run(one if (one["criterion"] == criterion).any() else rows, criterion)


def common_runs(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the rows of one run of HIS and one of HIES: the plainest curves, the lowest seed that both have.

    Raises:
        Unavailable: there is no such seed.
    """
    his, hies = usual_run(rows, "his"), usual_run(rows, "hies")
    seeds = set(his["seed"]) & set(hies["seed"])
    if not seeds:
        raise Unavailable("HIS and HIES have no seed in common")
    return his[his["seed"] == min(seeds)], hies[hies["seed"] == min(seeds)]


def fixed_alphas(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of HIES with a number for alpha, one curve a task and alpha (the plainest), of known quality."""
    if "alpha" not in rows:
        return rows[:0].assign(alpha=[])
    fixed = rows[(rows["criterion"] == "hies") & rows["alpha"].map(is_number)]
    fixed = fixed[fixed.groupby("task")["quality"].transform("count") > 0]
    chosen = [usual_run(part, "hies") for _, part in fixed.groupby(["task", "alpha"])]
    return pd.concat([fixed[:0], *chosen]).astype({"alpha": float})


def drawn_alpha(run: pd.DataFrame) -> float | None:
    """Returns the alpha of the scores in a run's score file: that of the ratio nearest to 1/2; None if it is fixed."""
    if run.empty or "alpha_used" not in run or word(run.iloc[0].to_dict()) is None:
        return None
    pruned = run[run["ratio"] > 0]
    return float(pruned.loc[(pruned["ratio"] - 0.5).abs().idxmin(), "alpha_used"]) if len(pruned) else None


def _plainness(row: dict[Hashable, Any]) -> tuple[int, float, float, int, str]:
    alpha = row.get("alpha")
    place, distance = 0, 0.0
    if is_number(alpha):
        place, distance = len(PREFERRED), abs(float(alpha or 0) - USUAL_ALPHA)
    elif isinstance(alpha, str):
        place = PREFERRED.index(alpha) if alpha in PREFERRED else len(PREFERRED) + 1
    return place, distance, abs(row["calibration_size"] - USUAL_SIZE), len(row["curve"]), row["curve"]
