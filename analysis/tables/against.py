"""Every criterion against HIES at each ratio, and the output norm with and without entropy, with paired intervals."""

import numpy as np
import pandas as pd

from analysis import choice
from analysis.captions import caption, percent
from analysis.errors import Unavailable
from analysis.labels import ordered_curves, ordered_tasks
from analysis.pairing import MEASURES
from analysis.registry import Table, table
from analysis.significance import DRAWS, Estimate, Gain, differences, mean_over_tasks
from analysis.statistics import Interval
from analysis.tables.beside import one_calibration_size
from analysis.tables.claims import bootstrap_note
from analysis.tables.summary import signed, verdict


@table(
    "against",
    about="Every criterion minus HIES in quality and stability at each ratio, mean over tasks, with paired intervals.",
    needs="rows and predictions of hies and of another criterion on the same seeds",
    per=("experiment", "model"),
)
def against(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """A line for each criterion and reference; only tasks and seeds that both have."""
    rows = one_calibration_size(rows)
    pairs = with_references(rows)
    found = differences(rows, pairs, draws)
    data = pd.DataFrame([line for pair in _pairs(pairs, rows) for line in _lines(*pair, found)])
    used = rows[rows["curve"].isin({*data["criterion"], *data["against"]})]
    text = (
        f"Criterion minus the one it stands against in percentage points, mean over the tasks that both have: "
        f"{caption(used)}. {bootstrap_note(draws)} Bold: the interval excludes 0. One seed: no interval."
    )
    return Table(_shown(data), data, text)


def with_references(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each job and each of its references of the same task and seed: against and path_against.

    The reference of every curve is the usual HIES; that of HIES with another importance also the criterion of it alone.

    Raises:
        Unavailable: there is no HIES, or nothing beside it.
    """
    jobs = rows[rows["ratio"] > 0].drop_duplicates("path")
    hies = choice.plainest(jobs, "hies")
    if hies is None or jobs["curve"].nunique() < 2:
        raise Unavailable("it takes rows of hies and of another criterion at a pruned ratio")
    found = [_merged(jobs[jobs["curve"] != hies], jobs[jobs["curve"] == hies])]
    if "importance" in jobs:
        for kind in jobs["importance"].dropna().unique():
            found.append(_merged(jobs[jobs["importance"] == kind], jobs[jobs["criterion"] == kind]))
    return pd.concat(found, ignore_index=True)


def _merged(jobs: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    told = references[["task", "seed", "checkpoint", "data", "curve", "path"]]
    names = {"curve": "against", "path": "path_against"}
    return jobs.merge(told.rename(columns=names), on=["task", "seed", "checkpoint", "data"])


def _pairs(pairs: pd.DataFrame, rows: pd.DataFrame) -> list[tuple[str, str]]:
    order = ordered_curves(rows)
    there = set(zip(pairs["curve"], pairs["against"], strict=True))
    return sorted(there, key=lambda pair: (order.index(pair[1]), order.index(pair[0])))


def _lines(curve: str, reference: str, found: list[Gain]) -> list[dict[str, object]]:
    mine = [gain for gain in found if (gain.curve, gain.against) == (curve, reference) and gain.measure in MEASURES]
    lines = []
    for ratio in sorted({ratio for gain in mine for ratio in gain.ratios.tolist() if ratio > 0}):
        for measure in MEASURES:
            samples = [gain.over(gain.ratios == ratio) for gain in mine if gain.measure == measure]
            tasks = ordered_tasks(pd.Series([gain.task for gain in mine if gain.measure == measure]))
            estimate = mean_over_tasks(samples).estimate()
            key = {"criterion": curve, "against": reference, "ratio": ratio, "measure": measure, "tasks": len(tasks)}
            lines.append({**key, **estimate._asdict(), "verdict": _verdict(estimate)})
    return lines


def _verdict(estimate: Estimate) -> str:
    return verdict(Interval(estimate.mean, estimate.low, estimate.high, estimate.seeds))


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (curve, reference), part in data.groupby(["criterion", "against"], sort=False):
        line: dict[str, object] = {"criterion": curve, "against": reference}
        for row in part.to_dict("records"):
            line[f"{row['measure']}, {percent(float(str(row['ratio'])))}"] = _text(row)
        lines.append({**line, "tasks": str(part["tasks"].min()), "seeds": str(part["seeds"].min())})
    ordered = pd.DataFrame(lines).fillna("")
    cells = [column for column in ordered if column not in ("criterion", "against", "tasks", "seeds")]
    cells.sort(key=lambda column: not column.startswith("quality"))
    return ordered[["criterion", "against", *cells, "tasks", "seeds"]]


def _text(row: dict[object, object]) -> str:
    mean, low, high = (float(str(row[name])) for name in ("mean", "low", "high"))
    if np.isnan(mean):
        return ""
    text = signed(mean) + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")
    return f"**{text}**" if row["verdict"] in ("ahead", "behind") else text
