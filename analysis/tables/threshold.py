"""How many heads can go before quality falls under a threshold (the paper's appendix E.1)."""

import numpy as np
import pandas as pd

from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.stats.intervals import mean_interval
from analysis.text.captions import caption, interval_words, percent
from analysis.text.labels import in_order, task_name

THRESHOLD = 80.0  # percent
PRINTED = "The paper's TinyBERT on SST-2 falls under it at 42 % by HIS and at 60 % by HIES"


@table(
    "threshold",
    about=f"The share of heads removed at which quality falls under {THRESHOLD:g} %, for each criterion and task.",
    needs=f"rows of a task with at least {THRESHOLD:g} % unpruned",
)
def threshold_table(rows: pd.DataFrame) -> Table:
    """Returns mean and interval over draws of the ratio; of a seed by linear interpolation between its ratios."""
    dense = rows[rows["ratio"] == 0].groupby("task")["quality"].mean()
    rows = rows[rows["task"].isin(dense[dense >= THRESHOLD].index)]
    if not (rows["ratio"] > 0).any():
        raise Unavailable(f"no task has {THRESHOLD:g} % unpruned and rows of a pruned ratio")
    lines = [_line(part) for _, part in rows.groupby(["task", "curve"])]
    data = in_order(pd.DataFrame(lines), rows, ["task", "curve"])
    columns = {"task": data["task"].map(task_name), "criterion": data["curve"]}
    columns |= {f"falls under {THRESHOLD:g} % at": data.apply(_text, axis=1), "draws": data["seeds"].astype(str)}
    text = (
        f"The share of heads removed at which quality falls under {THRESHOLD:g} %: {caption(rows)}. Mean over draws, "
    )
    text += f"of each by linear interpolation between its ratios; brackets: {interval_words(rows)}. "
    return Table(pd.DataFrame(columns), data, f"{text}{PRINTED}.")


def crossing(ratios: np.ndarray, quality: np.ndarray) -> float:
    """Returns the first ratio at which quality, linear between the ratios, falls under THRESHOLD; NaN if it never does.

    Undefined quality counts as fallen.

    Args:
        ratios: in order, the unpruned model's 0 first, [R].
        quality: in percent, NaN where undefined, [R].
    """
    under = np.flatnonzero(~(quality >= THRESHOLD))
    if not len(under) or not under[0]:
        return np.nan if not len(under) else float(ratios[0])
    before, after = under[0] - 1, under[0]
    if np.isnan(quality[after]):
        return float(ratios[after])
    share = (quality[before] - THRESHOLD) / (quality[before] - quality[after])
    return float(ratios[before] + share * (ratios[after] - ratios[before]))


def _line(part: pd.DataFrame) -> dict[str, object]:
    first = part.iloc[0]
    runs = [run.sort_values("ratio") for _, run in part.groupby("seed")]
    found = [crossing(run["ratio"].to_numpy(), run["quality"].to_numpy(dtype=float)) for run in runs]
    interval = mean_interval([] if np.isnan(found).any() else found)
    counts = {"seeds": len(runs), "never": int(np.isnan(found).sum()), "highest": part["ratio"].max()}
    return {"task": first["task"], "curve": first["curve"], **interval._asdict(), **counts}


def _text(line: pd.Series) -> str:
    """A mean needs all seeds: how many do not fall within the ratios is said in its place."""
    if line["never"]:
        some = "" if line["never"] == line["seeds"] else f" for {line['never']} of {line['seeds']} draws"
        return f"not up to {percent(line['highest'])}{some}"
    mean, low, high = (f"{100 * line[name]:z.1f}" for name in ("mean", "low", "high"))
    return f"{mean} %" + (f" [{low}, {high}]" if line["n"] > 1 else "")
