"""The paper's four claims about HIES and HIS, each decided by an interval over seeds and examples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.captions import caption, percent
from analysis.labels import task_name
from analysis.registry import Table, table
from analysis.resampling import EVENNESS
from analysis.significance import DRAWS, Estimate, Gain, gains, mean_over_tasks
from analysis.tables.beside import one_calibration_size
from analysis.tables.summary import signed


@dataclass(frozen=True)
class Claim:
    """What the paper says of HIES minus HIS in one measure: its sign, and at which ratios."""

    words: str
    measure: str
    sign: int
    at: Callable[[np.ndarray], np.ndarray]  # ratios [R] -> boolean [R]


def _specialised(ratios: np.ndarray) -> np.ndarray:
    return ratios >= 0.3 - 1e-9


def _redundant(ratios: np.ndarray) -> np.ndarray:
    return ratios <= 0.1 + 1e-9


CLAIMS = (
    Claim("1: higher quality at 30 % and more", "quality", 1, _specialised),
    Claim("2: higher stability at 30 % and more", "stability", 1, _specialised),
    Claim("3: HIS ahead in quality up to 10 %", "quality", -1, _redundant),
    Claim("4: removed heads spread more evenly over the sites at 30 % and more", EVENNESS, -1, _specialised),
)
MEAN = "mean"


@table(
    "claims",
    about="The paper's four claims about HIES against HIS: holds, does not hold or undecided, with intervals.",
    needs="rows and predictions of his, and of hies with alpha chosen per ratio, per task or auto, on the same seeds",
    per=("experiment", "model"),
)
def claims(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """A line for each HIES curve and task and their mean, a column for each claim."""
    found = gains(one_calibration_size(rows), draws)
    curves = dict.fromkeys(gain.curve for gain in found)
    data = pd.DataFrame(
        [line for curve in curves for claim in CLAIMS for line in _lines(claim, curve, found)],
        columns=["criterion", "task", "claim", "ratios", *Estimate._fields, "verdict"],
    )
    used = rows[rows["curve"].isin(curves) | (rows["criterion"] == "his")]
    return Table(_shown(data), data, _caption(data, used, draws))


def verdict(estimate: Estimate, sign: int) -> str:
    """`holds` if the interval lies entirely on the claimed side of 0, `does not hold` if on the other."""
    if np.isnan(estimate.mean):
        return ""
    low, high = sorted((sign * estimate.low, sign * estimate.high))
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


def _lines(claim: Claim, curve: str, found: list[Gain]) -> list[dict[str, object]]:
    """The claim on every task that has its ratios, and on their mean."""
    concerned = [gain for gain in found if (gain.curve, gain.measure) == (curve, claim.measure)]
    concerned = [gain for gain in concerned if claim.at(gain.ratios).any()]
    samples = {gain.task: gain.over(claim.at(gain.ratios)) for gain in concerned}
    if len(samples) > 1:
        samples[MEAN] = mean_over_tasks(list(samples.values()))
    ratios = sorted({ratio for gain in concerned for ratio in gain.ratios[claim.at(gain.ratios)].tolist()})
    lines = []
    for task, sample in samples.items():
        estimate = sample.estimate()
        line = {
            "criterion": curve,
            "task": task,
            "claim": claim.words,
            "ratios": " ".join(f"{one:g}" for one in ratios),
        }
        lines.append({**line, **estimate._asdict(), "verdict": verdict(estimate, claim.sign)})
    return lines


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    counts = data[data["task"] != MEAN].groupby("criterion")["task"].nunique()
    lines = []
    for (curve, task), part in data.groupby(["criterion", "task"], sort=False):
        cells = {row["claim"]: _text(row) for row in part.to_dict("records")}
        name = f"mean of {counts[curve]} tasks" if task == MEAN else task_name(str(task))
        lines.append({"criterion": curve, "task": name, **{one.words: cells.get(one.words, "") for one in CLAIMS}})
    return pd.DataFrame(lines)


def _text(row: dict[object, object]) -> str:
    mean, low, high = (float(str(row[name])) for name in ("mean", "low", "high"))
    if np.isnan(mean):
        return ""
    return f"{row['verdict']}: {signed(mean)}" + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")


def _caption(data: pd.DataFrame, used: pd.DataFrame, draws: int) -> str:
    ratios = ", ".join(percent(ratio) for ratio in sorted(used.loc[used["ratio"] > 0, "ratio"].unique()))
    text = f"HIES minus HIS in percentage points, mean over the claim's ratios (of {ratios}): {caption(used)}. "
    text += "Claims 1 and 2 put it above 0, claims 3 and 4 below; evenness is the standard deviation over the sites of "
    text += "the share of their heads that is removed. Holds, or does not hold: the whole interval is on that side. "
    return text + f"{bootstrap_note(draws)} {undefined_note(data)}"


def bootstrap_note(draws: int) -> str:
    """How the intervals were made, for a caption."""
    return (
        f"Brackets: 95 % percentile interval of {draws:,} paired bootstrap draws over calibration seeds and evaluation "
        "examples (evenness: over seeds alone) of one fine-tuned checkpoint and one choice of alpha, not corrected for "
        "the number of comparisons."
    )


def undefined_note(data: pd.DataFrame) -> str:
    """What was left out because the metric is undefined there, for a caption."""
    lost = data[(data["undefined_seeds"] > 0) | (data["undefined_draws"] > 0)]
    lost = lost[(lost["seeds"] > 1) & (lost["task"] != MEAN)]
    if lost.empty:
        return "No draw was undefined."
    worst = lost.groupby("task")["undefined_draws"].max()
    parts = [f"{task_name(str(task))} up to {count:,}" for task, count in worst.items()]
    return f"Draws left out because the metric is undefined (constant predictions): {', '.join(parts)}."
