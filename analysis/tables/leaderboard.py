"""The leaderboard: every method that has rows, at every ratio and over all of them, with ranks."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import Unavailable
from analysis.registry import Table, table
from analysis.stats.boards import mean_of_tasks, ranks, unusual_settings
from analysis.stats.intervals import mean_interval
from analysis.stats.variants import nearly_all
from analysis.tables.measures import percent_of_dense
from analysis.text.captions import bracketed, caption, number, percent
from analysis.text.labels import listed_tasks, ordered_curves, ordered_tasks, task_name
from analysis.text.measures import IN_PERCENT, MEASURE_OF, averaged, axis_label, measure_of, notes

FLOPS = "flops_left"  # a column: FLOPs in percent of those of the run's unpruned model
NO_ROWS, UNDEFINED_HERE = "no rows", "undefined"
BOARD_NOTE = (
    "Means over the tasks, of one checkpoint and equal settings, none over ratios beyond 90 %; a criterion that lacks "
    "a task has neither mean nor rank. Brackets: 95 % t interval over the calibration draws, of fewer than five draws "
    "their range; ranks: of a bootstrap of the same draws for all, stretched as a t interval is, of fewer than five "
    "the range over each draw and their mean, where a criterion of one draw has its number in all. The evaluation "
    "examples are not resampled. Draws, FLOPs and columns of tasks: of the draws that all tasks have, where a "
    "criterion has a mean. FLOPs: of one example of full length, in percent of the dense model."
)


@table(
    "leaderboard",
    about="Every criterion over all tasks: quality, stability, loss, FLOPs left, and ranks with intervals.",
    needs="rows of a pruned ratio",
)
def leaderboard_table(rows: pd.DataFrame, measures: Sequence[str] = IN_PERCENT) -> Table:
    """Returns a line for each criterion at the mean over the common ratios and at each ratio, the best first."""
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are only rows of the unpruned model")
    shown = (*measures, *(("loss",) if "loss" not in measures and rows["loss"].notna().any() else ()))
    rows = rows.assign(**{FLOPS: percent_of_dense(rows, "flops")})
    pruned = rows[rows["path"].isin(rows.loc[rows["ratio"] > 0, "path"])]
    boards = {str(words): board for words, board in pruned.groupby(unusual_settings(rows))}
    order = sorted(boards, key=lambda words: [word.zfill(9) for word in words.split()])  # numbers by their size
    lines = [line for settings in order for line in _lines(settings, boards[settings], measures, shown)]
    data = pd.DataFrame(lines)
    text = f"Leaderboard: {caption(rows)}. {BOARD_NOTE}{_missing(data)}{notes(shown, rows)}"
    return Table(_texts(data, rows, measures, shown), data.drop(columns=["tasks", "lacking"]), text)


def _lines(
    settings: str, board: pd.DataFrame, measures: Sequence[str], shown: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The criteria of one board: over the ratios that all of them have, then at each ratio, the best first."""
    ratios = [{*part["ratio"]} - {0.0} for _, part in board.groupby(["curve", "task"])]
    common, every = sorted(set.intersection(*ratios)), sorted(set.union(*ratios))
    together = np.array(common)[~nearly_all(np.array(common))].tolist()  # beyond, answers are of one class
    windows = [together] if len(together) > 1 else []
    tasks = {measure: {*averaged(board, measure)["task"]} for measure in shown}  # which its unpruned rows tell
    for window in [*windows, *([ratio] for ratio in every)]:
        part = _over(board, window, [*shown, FLOPS])
        means = {measure: _by_curve(part, tasks[measure], measure) for measure in shown}
        places = {measure: ranks(means[measure], measure_of(measure).better) for measure in measures}
        first = places[measures[0]]["rank"]
        for curve in sorted(ordered_curves(board), key=lambda curve: first.get(curve, len(board))):
            line = {"settings": settings, "ratios": " ".join(f"{ratio:g}" for ratio in window), "criterion": curve}
            own = _of_the_mean(part[part["curve"] == curve], means[shown[0]])
            yield line | _estimates(curve, means, places) | _by_task(own, board, shown[0])


def _over(board: pd.DataFrame, ratios: list[float], columns: list[str]) -> pd.DataFrame:
    """A row for each run that has these ratios: the means over them, undefined where one is."""
    runs = board[board["ratio"].isin(ratios)].groupby(["curve", "seed", "task", "metric"], as_index=False)
    whole = runs.size()["size"] == len(ratios)
    return runs[columns].mean(skipna=False).assign(ratio=ratios[0])[whole]


def _by_curve(part: pd.DataFrame, tasks: set[str], measure: str) -> pd.DataFrame:
    """Means over these tasks, a line a curve and a column a seed; without curves that lack one."""
    used = part[part["task"].isin(tasks)]
    return mean_of_tasks(used if tasks <= {*part["task"]} else part[:0], measure).pivot(
        index="curve", columns="seed", values=measure
    )


def _estimates(curve: str, means: dict[str, pd.DataFrame], places: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Mean, interval and rank of a curve in each measure; nothing where it has no mean."""
    line: dict[str, Any] = {}
    for measure, by_curve in means.items():
        values = by_curve.loc[curve].to_numpy() if curve in by_curve.index else np.array([])
        line |= {f"{measure}_{name}": value for name, value in mean_interval(values)._asdict().items()}
        if measure in places and curve in by_curve.index and len(by_curve) > 1:
            line |= {f"{measure}_rank_{name}": value for name, value in places[measure].loc[curve].items()}
    return line


def _of_the_mean(own: pd.DataFrame, by_curve: pd.DataFrame) -> pd.DataFrame:
    """The rows of a curve on the draws that its mean over tasks is of; all of them where it has none."""
    seeds = by_curve.loc[by_curve.index.isin(own["curve"])].dropna(axis=1).columns
    kept = own["seed"].isin(seeds)
    return own[kept | ~kept.groupby(own["task"]).transform("any")]  # a task at chance, of no mean, has its own draws


def _by_task(own: pd.DataFrame, board: pd.DataFrame, measure: str) -> dict[str, Any]:
    """Draws, FLOPs left and a measure of a curve on every task; which tasks the board has, and the curve lacks."""
    parts = own.groupby("task")
    tasks, means = ordered_tasks(board["task"]), parts[[measure, FLOPS]].mean()
    line: dict[str, Any] = {"tasks": tasks, "lacking": [task for task in tasks if task not in means.index]}
    line |= {"draws": int(parts["seed"].nunique().reindex(tasks, fill_value=0).min()), FLOPS: means[FLOPS].mean()}
    return line | {f"{measure}_on_{task}": means[measure].get(task) for task in tasks}


def _missing(data: pd.DataFrame) -> str:
    """Which criteria lack which tasks, for a caption; empty if none does."""
    lacking = data.explode("lacking").dropna(subset="lacking").groupby("criterion", sort=False)["lacking"].unique()
    parts = [f"{curve} on {listed_tasks(tasks)}" for curve, tasks in lacking.items()]
    return f" No rows: {'; '.join(parts)}." if parts else ""


def _texts(data: pd.DataFrame, rows: pd.DataFrame, measures: Sequence[str], shown: Sequence[str]) -> pd.DataFrame:
    columns: dict[str, Any] = {"criterion": data["criterion"]}
    if data["settings"].any():
        columns["settings"] = data["settings"]
    columns["removed"] = [
        " ".join(["mean of"] * (" " in words) + [", ".join(percent(float(ratio)) for ratio in words.split())])
        for words in data["ratios"]
    ]
    lines = data.to_dict("records")
    for measure in shown:
        if measure in measures:
            ranks = [_with_ends(line, f"{measure}_rank", "rank", ".0f") for line in lines]
            columns[f"rank by {MEASURE_OF[measure].words}"] = ranks
        means = [_with_ends(line, measure, "mean", f".{MEASURE_OF[measure].digits}f") for line in lines]
        columns[axis_label(measure, averaged(rows, measure))] = means
    columns["FLOPs left (%)"] = [number(line[FLOPS], ".1f") for line in lines]
    columns["draws"] = data["draws"].astype(str)
    for task in ordered_tasks(rows["task"]):
        columns[task_name(task)] = [_on_task(line, task, shown[0]) for line in lines]
    return pd.DataFrame(columns)


def _with_ends(line: dict[Any, Any], of: str, first: str, digits: str) -> str:
    """A mean or a rank with its interval; nothing where the curve has none."""
    return bracketed(*(number(line.get(f"{of}_{name}", np.nan), digits) for name in (first, "low", "high")))


def _on_task(line: dict[Any, Any], task: str, measure: str) -> str:
    """The mean of a task, or why there is none; nothing where the board has no such task."""
    if task not in line["tasks"]:
        return ""
    if task in line["lacking"]:
        return NO_ROWS
    return number(line[f"{measure}_on_{task}"], f".{MEASURE_OF[measure].digits}f") or UNDEFINED_HERE
