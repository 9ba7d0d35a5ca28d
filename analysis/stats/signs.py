"""Which sign of the entropy term is the better one on a model and task, and what of its heads may predict it."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.data.scores import Scores, load_scores
from analysis.errors import Unavailable
from analysis.stats.intervals import mean_interval
from analysis.stats.overlap import correlation_of_ranks
from analysis.stats.pairing import PROTOCOL_KEYS, with_references
from analysis.stats.significance import DRAWS, ESTIMATE, curve_differences
from analysis.text.choice import usual_run
from analysis.text.labels import TUNING_WORDS
from analysis.text.measures import NATS, measure_of

SETTINGS = ["model", "task"]
PREDICTORS = {  # of a setting, mean over its draws -> what it is
    "entropy": "mean AE of the heads that are scored",
    "first": "mean AE of the first layer that is scored",
    "depth": "rank correlation of AE with depth",
    "his": "rank correlation of AE with HIS",
    "inside": "the same inside a layer, mean over layers",
}
# What two forms of a criterion share that differ in the sign alone.
OF_ONE_FORM = ("alpha", *TUNING_WORDS, "prior_examples", "normalize", "importance", "reduction", "reduction_batch",
               "entropy", "order", "placebo")  # fmt: skip
LEAST = 5  # settings that a correlation over them takes


def sign_gains(rows: pd.DataFrame, draws: int = DRAWS) -> pd.DataFrame:
    """Returns a line for each setting, ratio and measure: the paper's sign minus the turned one, with ESTIMATE.

    The paper's is 1 - AE in HIES and in AE alone, which keep focused heads; the turned one AE itself and AD.

    Raises:
        Unavailable: no setting has both on the same draws.
    """
    jobs = rows[rows["ratio"] > 0].drop_duplicates("path")
    combination = jobs["combination"].fillna("sum") if "combination" in jobs else pd.Series("sum", index=jobs.index)
    turned = jobs["criterion"].eq("ad") | combination.eq("printed")
    jobs = jobs.assign(kind=jobs["criterion"].replace("ad", "ae"), turned=turned)
    both = jobs[jobs["kind"].isin(["hies", "ae"]) & combination.isin(["sum", "printed"])]
    pairs = with_references(both[~both["turned"]], both[both["turned"]], [*PROTOCOL_KEYS, *OF_ONE_FORM, "kind"])
    if pairs.empty:
        raise Unavailable(
            "it takes rows of hies with both signs of the entropy term, or of ae and ad, on the same seeds"
        )
    lines = [line for setting, part in pairs.groupby(SETTINGS) for line in _gains(setting, part, rows, draws)]
    return pd.DataFrame(lines)


def _gains(
    setting: tuple[str, ...], pairs: pd.DataFrame, rows: pd.DataFrame, draws: int
) -> Iterator[dict[str, object]]:
    used = rows[rows["path"].isin({*pairs["path"], *pairs["path_against"]})]
    for gain in curve_differences(used, pairs, draws):
        for place, ratio in enumerate(gain.ratios):
            line = {**dict(zip(SETTINGS, setting, strict=True)), "criterion": gain.curve, "ratio": ratio}
            estimate = gain.over(np.arange(len(gain.ratios)) == place).estimate()
            yield {**line, "measure": gain.measure, "unit": gain.unit, **{name: estimate[name] for name in ESTIMATE}}


def predictors(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns a line for each setting: PREDICTORS, mean over the draws of HIS.

    Raises:
        Unavailable: no run of HIS has a score file with importance and entropy.
    """
    return layer_statistics(rows).drop(columns=["layer", "ae", "rho"]).drop_duplicates(SETTINGS, ignore_index=True)


def layer_statistics(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns a line for each setting and layer: mean AE, `rho` (rank correlation of AE with HIS), and PREDICTORS.

    They are means over the draws of the usual HIS, a curve each.
    """
    found = [
        {**{name: run[name] for name in SETTINGS}, **line}
        for _, part in rows.groupby(SETTINGS)
        for run in usual_run(part, "his").drop_duplicates("path").to_dict("records")
        for line in _layers(load_scores(run))
    ]
    if not found:
        raise Unavailable("it takes runs of his whose score files have importance and entropy")
    return pd.DataFrame(found).groupby([*SETTINGS, "layer"], sort=False).mean().reset_index()


def _layers(scores: Scores) -> Iterator[dict[str, float]]:
    if not {"his", "ae"} <= set(scores.values):
        return
    his, ae = scores.rectangle("his"), scores.rectangle("ae")  # [layers, heads]
    there = scores.there
    depths = np.broadcast_to(np.arange(len(ae))[:, None], ae.shape)[there]
    inside = [_rho(his[layer][there[layer]], ae[layer][there[layer]]) for layer in range(len(ae))]
    whole = {
        "entropy": float(ae[there].mean()), "first": float(ae[0][there[0]].mean()), "depth": _rho(depths, ae[there]),
        "his": _rho(his[there], ae[there]), "inside": mean_interval(inside).mean,
    }  # fmt: skip
    for layer, rho in enumerate(inside):
        yield {"layer": layer, "ae": float(ae[layer][there[layer]].mean()), "rho": rho, **whole}


def rank_correlations(gains: pd.DataFrame, known: pd.DataFrame) -> dict[str, float]:
    """Returns how far each predictor ranks the settings as a gain does, and how many `settings` these are.

    Nothing for fewer than LEAST settings of one unit with a gain. Gains are rounded as tables print them, and left out
    where nothing of them and of their intervals is left: both signs give the same answers there, such as one class.

    Args:
        gains: one line a setting, of one measure, with `mean`, `low` and `high`.
        known: `predictors`.
    """
    one_unit = gains if gains["unit"].nunique() < 2 else gains[gains["unit"] == NATS]
    both = one_unit.dropna(subset="mean").merge(known, on=SETTINGS)
    digits = measure_of(str(gains["measure"].iloc[0])).digits
    printed = both[["mean", "low", "high"]].round(digits)
    both = both.assign(mean=printed["mean"])[(printed != 0).any(axis=1)]
    if len(both) < LEAST:
        return {}
    found = {name: _rho(both[name].to_numpy(), both["mean"].to_numpy()) for name in PREDICTORS}
    return {**found, "settings": len(both)}


def _rho(one: np.ndarray, other: np.ndarray) -> float:
    return correlation_of_ranks(pd.Series(one).rank(), pd.Series(other).rank())
