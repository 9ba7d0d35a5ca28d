"""The paper's four claims about HIES and HIS, each decided by an interval over seeds and examples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.registry import OF_MODEL, Table, table
from analysis.stats.pairing import one_calibration_size
from analysis.stats.resampling import EVENNESS
from analysis.stats.significance import DRAWS, MEAN, Estimate, Gain, gains_over_his, mean_over_tasks
from analysis.stats.variants import WINDOWS
from analysis.tables.differences import bootstrap_note, ratios_of, task_or_mean, undefined_note
from analysis.text.captions import caption
from analysis.text.numbers import signed_interval

SPECIALISED, REDUNDANT = WINDOWS.values()


@dataclass(frozen=True)
class Claim:
    """What the paper says of HIES minus HIS in one measure.

    Attributes:
        words: for readers.
        measure: quality, stability or evenness.
        sign: of the difference.
        at: at which ratios [R], boolean [R].
    """

    words: str
    measure: str
    sign: int
    at: Callable[[np.ndarray], np.ndarray]

    def decided(self, estimate: Estimate) -> str:
        """Returns `holds` if the interval lies on the claimed side of 0, `does not hold` if on the other."""
        if np.isnan(estimate.mean):
            return ""
        low, high = sorted((self.sign * estimate.low, self.sign * estimate.high))
        return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


CLAIMS = (
    Claim("1: higher quality at 30 % and more", "quality", 1, SPECIALISED),
    Claim("2: higher stability at 30 % and more", "stability", 1, SPECIALISED),
    Claim("3: HIS ahead in quality up to 10 %", "quality", -1, REDUNDANT),
    Claim("4: removed heads spread more evenly over the sites at 30 % and more", EVENNESS, -1, SPECIALISED),
)


@table(
    "claims",
    about="The paper's four claims about HIES against HIS: holds, does not hold or undecided, with intervals.",
    needs="rows and predictions of his, and of hies with alpha chosen per ratio, per task or auto, on the same seeds",
    per=OF_MODEL,
)
def claims_table(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """Returns a line for each HIES curve and task and their mean, a column for each claim."""
    gains = gains_over_his(one_calibration_size(rows), draws)
    curves = dict.fromkeys(gain.curve for gain in gains)
    data = pd.DataFrame(
        [line for curve in curves for claim in CLAIMS for line in _lines(claim, curve, gains)],
        columns=["criterion", "task", "claim", "ratios", *Estimate._fields, "verdict"],
    )
    used = rows[rows["curve"].isin(curves) | (rows["criterion"] == "his")]
    text = (
        f"HIES minus HIS in percentage points, mean over the claim's ratios (of {ratios_of(used)}): {caption(used)}. "
        "Claims 1 and 2 put it above 0, claims 3 and 4 below; evenness is the standard deviation over the sites of "
        "the share of their heads that is removed. Holds, or does not hold: the whole interval is on that side. "
    )
    return Table(_shown(data), data, f"{text}{bootstrap_note(draws)} {undefined_note(data)}")


def _lines(claim: Claim, curve: str, gains: list[Gain]) -> list[dict[str, object]]:
    """The claim on every task that has its ratios, and on their mean."""
    concerned = [gain for gain in gains if (gain.curve, gain.measure) == (curve, claim.measure)]
    samples = {gain.task: gain.over(at) for gain in concerned if (at := claim.at(gain.ratios)).any()}
    if len(samples) > 1:
        samples[MEAN] = mean_over_tasks(list(samples.values()))
    ratios = sorted({ratio for gain in concerned for ratio in gain.ratios[claim.at(gain.ratios)].tolist()})
    line = {"criterion": curve, "claim": claim.words, "ratios": " ".join(f"{ratio:g}" for ratio in ratios)}
    estimates = {task: sample.estimate() for task, sample in samples.items()}
    return [{**line, "task": task, **one._asdict(), "verdict": claim.decided(one)} for task, one in estimates.items()]


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    counts = data[data["task"] != MEAN].groupby("criterion")["task"].nunique()
    lines = []
    for (curve, task), part in data.groupby(["criterion", "task"], sort=False):
        cells = {row["claim"]: _text(row) for row in part.to_dict("records")}
        line = {"criterion": curve, "task": task_or_mean(str(task), counts[curve])}
        lines.append({**line, **{one.words: cells.get(one.words, "") for one in CLAIMS}})
    return pd.DataFrame(lines)


def _text(row: dict) -> str:
    return "" if np.isnan(row["mean"]) else f"{row['verdict']}: {signed_interval(row)}"
