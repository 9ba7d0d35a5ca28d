"""HIES minus HIS at every task and ratio, with intervals over seeds and examples."""

import numpy as np
import pandas as pd

from analysis.captions import caption, percent
from analysis.labels import task_name
from analysis.pairing import MEASURES
from analysis.registry import Table, table
from analysis.significance import DRAWS, Gain, gains
from analysis.statistics import Interval
from analysis.tables.beside import number, one_calibration_size
from analysis.tables.claims import bootstrap_note, undefined_note
from analysis.tables.summary import signed, verdict


@table(
    "significance",
    about="HIES minus HIS for each task and ratio, bootstrapped over seeds and examples together.",
    needs="rows and predictions of his, and of hies with alpha chosen per ratio, per task or auto, on the same seeds",
    per=("experiment", "model"),
)
def significance(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """One line for each task, HIES curve and ratio; ahead or behind only if the interval excludes 0."""
    found = [gain for gain in gains(one_calibration_size(rows), draws) if gain.measure in MEASURES]
    data = pd.DataFrame([_line(gain, place) for gain in found for place in range(len(gain.ratios))])
    used = rows[rows["curve"].isin(data["criterion"].unique()) | (rows["criterion"] == "his")]
    text = f"HIES minus HIS in percentage points: {caption(used)}. {bootstrap_note(draws)} {undefined_note(data)} "
    return Table(_shown(data), data, f"{text}Ahead or behind: the interval excludes 0.")


def _line(gain: Gain, place: int) -> dict[str, object]:
    estimate = gain.over(np.arange(len(gain.ratios)) == place).estimate()
    both = ~np.isnan(gain.gains[:, place])  # the means of HIS and HIES are those that the difference is made of
    his, hies = (side[both, place].mean() if both.any() else np.nan for side in (gain.reference, gain.values))
    line = {"task": gain.task, "criterion": gain.curve, "ratio": gain.ratios[place], "measure": gain.measure}
    interval = Interval(estimate.mean, estimate.low, estimate.high, estimate.seeds - estimate.undefined_seeds)
    decided = verdict(interval) if interval.n else ""
    return {**line, "his": his, "hies": hies, **estimate._asdict(), "verdict": decided}


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (task, curve, ratio), part in data.groupby(["task", "criterion", "ratio"], sort=False):
        line = {"task": task_name(str(task)), "criterion": curve, "removed": percent(float(str(ratio)))}
        for row in part.to_dict("records"):
            measure = row["measure"]
            line[f"{measure}: HIS"], line[f"{measure}: HIES"] = number(row["his"]), number(row["hies"])
            line[f"{measure}: difference"], line[f"{measure}: HIES is"] = _text(row), row["verdict"]
        lines.append(line)
    return pd.DataFrame(lines)


def _text(row: dict[object, object]) -> str:
    mean, low, high = (float(str(row[name])) for name in ("mean", "low", "high"))
    if np.isnan(mean):
        return ""
    return signed(mean) + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")
