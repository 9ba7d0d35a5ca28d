"""The findings in one table: what was declared in `analysis.findings`, with the numbers that the rows give."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import paper
from analysis.data import rows as data_rows
from analysis.errors import Unavailable
from analysis.figures.agreement import overlaps
from analysis.findings import FINDINGS
from analysis.findings.forms import HIS, ChosenAgain, Difference, Finding, PaperGain, RankOfGains, SameHeads
from analysis.registry import Table, entries, table
from analysis.stats.chosen import chosen_again
from analysis.stats.intervals import TOO_FEW, corrected
from analysis.stats.pairing import with_references
from analysis.stats.significance import (
    DRAWS,
    Gain,
    Sample,
    averaged_gains,
    curve_differences,
    mean_over_tasks,
    of_checkpoints,
)
from analysis.text.captions import number, signed_interval, signed_number
from analysis.text.choice import fixed_alphas
from analysis.text.labels import task_name, without_word
from analysis.text.measures import ALL_MEASURES, MEASURE_OF, measure_of
from hies.runs import folders
from hies.runs.folders import warn_of_rows

SAME_HEADS = 0.9  # Jaccard
TIE = 1e-9  # points or nats: what rounding leaves is ahead of nothing
COLUMNS = ["key", "finding", "experiment", "measure", "mean", "low", "high", "p", "task_low", "task_high", "task_p",
           "least", "least_low", "least_high", "least_without", "ahead", "tasks", "draws", "cells", "verdict",
           "where"]  # fmt: skip
OF_JOBS = ["curve", "criterion", "alpha", "calibration_size", "model", "task", "seed", "checkpoint", "data", "path"]
OF_RUNS = ["path", "task", "metric", "ratio", "mask", "examples", "quality", "quality_norm", "chance"]


def load(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """Returns the rows of the experiments of findings, in this folder and in those within it (`reports`)."""
    results_dir = Path(results_dir)
    inner = sorted(path for path in results_dir.glob("*") if path.is_dir())
    names = dict.fromkeys(one.experiment for one in FINDINGS if isinstance(one, Difference | ChosenAgain))
    there = [(folder, name) for folder in (results_dir, *inner) for name in names if folders.has_rows(folder / name)]
    frames = [data_rows.load(*one) for one in there if experiment in (None, one[1])]
    return pd.concat(frames, ignore_index=True) if frames else data_rows.load(results_dir, "")


@table(
    "findings",
    about="The findings of these reports, a line for each: effect, intervals, tasks ahead, verdict, where to look.",
    needs="rows of the experiments that analysis/findings names",
    per=(),
    load=load,
)
def findings_table(rows: pd.DataFrame, draws: int = DRAWS) -> Table:
    """Returns a line for each finding whose rows are there."""
    data = findings(rows, draws)
    tests = data[data["p"].notna()].groupby("experiment", sort=False).size()
    counts = ", ".join(f"{name} {count}" for name, count in tests.items())
    text = (
        "Differences in percentage points (loss: nats; evenness: standard deviation over layers of the share removed). "
        "Effect: mean over tasks and draws with the 95 % t interval of these tasks, over draws and examples. Over "
        "tasks: the interval that counts tasks as drawn too. Without one task: without the one that moves the mean "
        "most. Ahead: tasks on the better side. Ahead or behind: on these tasks p is at most 0.05 after Holm's "
        f"correction for the tests of its experiment ({counts}), and the interval over tasks excludes 0, else 'on "
        "these tasks', as always of two to four; 'one task': undecided without that task. Equal within a margin (1 "
        "point of quality, 2 of stability): both 90 % intervals, of fewer than five tasks the first, lie inside. The "
        "same: 0 in every draw. Cells: differences (curve minus one other, task, ratio; quality, stability, loss) that "
        "the experiment allows to look at; tables of every form against every other, and further measures, have more. "
        "Fewer than five draws: their range. Over fine-tuning seeds checkpoints, each with the mean of its draws, "
        "stand where draws do."
    )
    return Table(_shown(data), data, text)


def findings(rows: pd.DataFrame, draws: int = DRAWS, declared: Sequence[Finding] = FINDINGS) -> pd.DataFrame:
    """Returns COLUMNS of each finding whose rows are there.

    Raises:
        Unavailable: there are none for any.
    """
    rows = _of_plain_curves(_of_one_model(rows, declared), declared)
    gains = _gains(rows, [one for one in declared if isinstance(one, Difference)], draws)
    wheres = {one.key: f"analysis/paper/{one.file}.csv" for one in declared if isinstance(one, PaperGain)}
    lines, by_task = [], {}
    for one in declared:
        line: dict[str, Any] | None = None
        if isinstance(one, Difference) and one.key in gains:
            line = _of_difference(one, gains[one.key], rows)
            by_task[one.key] = {task: sample.mean for task, sample in gains[one.key].items()}
        elif isinstance(one, PaperGain):
            by_task[one.key] = paper_gains(one)
            line = _of_paper(by_task[one.key], wheres[one.key])
        elif isinstance(one, RankOfGains) and one.gain in by_task:
            line = _of_ranks(by_task[one.gain], by_task[one.paper], wheres[one.paper])
        elif isinstance(one, SameHeads):
            line = _of_same_heads(one, rows)
        elif isinstance(one, ChosenAgain):
            line = _of_choice(one, rows, draws)
        if line:
            lines.append({"key": one.key, "finding": one.words, **line})
    if not gains:
        raise Unavailable("there are no rows of the curves that findings compare")
    data = pd.DataFrame(lines).reindex(columns=[*COLUMNS, "within", "margin", "scope"])
    return corrected(data, data["experiment"].fillna(""))[COLUMNS]


def paper_gains(one: PaperGain) -> dict[str, float]:
    """Returns HIES minus HIS of each task, as the paper prints it."""
    numbers = paper.read_paper(one.file)
    at = numbers[np.isclose(numbers["ratio"], one.ratio) & (numbers["task"] != "average")]
    wide = at.pivot(index="task", columns="method", values=f"{one.measure}_percent")
    return (wide["HIES"] - wide["HIS"]).to_dict()


def _of_plain_curves(rows: pd.DataFrame, declared: Iterable[Finding]) -> pd.DataFrame:
    """The rows, where a finding is over checkpoints with curves that do not name theirs."""
    apart = [one.experiment for one in declared if isinstance(one, Difference) and one.over == "checkpoints"]
    of_several = rows["experiment"].isin(apart)
    if not of_several.any():
        return rows
    return pd.concat([rows[~of_several], without_word(rows[of_several], "checkpoint")], ignore_index=True)


def _of_one_model(rows: pd.DataFrame, declared: Iterable[Finding]) -> pd.DataFrame:
    """The rows without those experiments of which a finding would be over several models.

    Several may stand in one experiment where its findings name their tasks and each task is of one model.
    """
    kept = pd.Series(True, index=rows.index)
    compared = [one for one in declared if isinstance(one, Difference | SameHeads | ChosenAgain)]
    for name in dict.fromkeys(one.experiment for one in compared):
        here = rows["experiment"] == name
        of_all_tasks = any(one.experiment == name and not getattr(one, "tasks", ()) for one in compared)
        models = rows[here].groupby("experiment" if of_all_tasks else "task")["model"].unique()
        if several := sorted({model for some in models if len(some) > 1 for model in some}):
            warn_of_rows(f"the findings of {name} are left out: they would be over several models, {_listed(several)}.")
            kept &= ~here
    return rows[kept]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])


def _gains(rows: pd.DataFrame, declared: Iterable[Difference], draws: int) -> dict[str, dict[str, Sample]]:
    """By the key of a finding: its sample on each task. Those of an experiment with an unusable run are left out."""
    samples: dict[str, dict[str, Sample]] = {}
    for experiment, part in rows.groupby("experiment"):
        here = [one for one in declared if one.experiment == experiment]
        try:
            samples |= _of_experiment(part, here, draws)
        except Unavailable as reason:
            warn_of_rows(f"the differences of {experiment} are left out of the findings: {reason}.")
    return samples


def _of_experiment(rows: pd.DataFrame, here: Sequence[Difference], draws: int) -> dict[str, dict[str, Sample]]:
    samples: dict[str, dict[str, Sample]] = {}
    jobs = rows.loc[rows["ratio"] > 0, OF_JOBS].drop_duplicates("path")  # of many columns, since these are many
    keys = ["model", "task", "seed", "checkpoint", "data"]
    wanted = dict.fromkeys((one.curve, one.against) for one in here)
    pairs = [with_references(jobs[jobs["curve"] == a], jobs[jobs["curve"] == b], keys) for a, b in wanted]
    there = pd.concat(pairs, ignore_index=True) if pairs else rows[:0]
    found = _differences(rows[[name for name in OF_RUNS if name in rows]], there, here, draws)
    for one in here:
        by_task = _by_task(one, averaged_gains([gain for gain in found if _is_of(one, gain)]))
        if by_task:
            samples[one.key] = by_task
    return samples


def _differences(runs: pd.DataFrame, pairs: pd.DataFrame, here: Sequence[Difference], draws: int) -> list[Gain]:
    """The gains of these pairs of jobs, of each checkpoint its own where a finding is over checkpoints."""
    apart = any(one.over == "checkpoints" for one in here)
    parts = [part for _, part in pairs.groupby("checkpoint", sort=False)] if apart else [pairs] if len(pairs) else []
    return [gain for part in parts for gain in curve_differences(runs, part, draws)]


def _by_task(one: Difference, gains: Sequence[Gain]) -> dict[str, Sample]:
    of_task: dict[str, list[Gain]] = {}
    for gain in gains:
        of_task.setdefault(gain.task, []).append(gain)
    if one.over == "checkpoints":
        return {task: of_checkpoints(part, partial(_at, one)) for task, part in of_task.items()}
    return {task: gain.over(_at(one, gain.ratios)) for task, (gain,) in of_task.items()}


def _is_of(one: Difference, gain: Gain) -> bool:
    """Whether it is what a finding is about, and at all of its ratios."""
    same = (gain.curve, gain.against, gain.measure) == (one.curve, one.against, one.measure)
    return same and (not one.tasks or gain.task in one.tasks) and int(_at(one, gain.ratios).sum()) == len(one.ratios)


def _at(one: Difference, ratios: np.ndarray) -> np.ndarray:
    return np.isclose(ratios[:, None], one.ratios).any(axis=1)  # [R, 1] with the ratios -> [R]


def _of_difference(one: Difference, by_task: Mapping[str, Sample], rows: pd.DataFrame) -> dict[str, Any]:
    whole = mean_over_tasks([*by_task.values()])
    these, over = whole.estimate(), whole.over_tasks()
    line = {name: these[name] for name in ("mean", "low", "high", "p", "within", "margin", "scope", "verdict")}
    line |= {f"task_{name}": over[name] for name in ("low", "high", "p")}
    line |= {"draws": whole.seeds, "tasks": whole.tasks}
    line["ahead"] = int((whole.better * whole.by_task > TIE).sum())
    if whole.tasks > 2:
        rest = whole.rest().estimate()
        line["least_without"] = task_name([*by_task][whole.extreme])
        line |= {f"least{suffix}": rest[name] for suffix, name in (("", "mean"), ("_low", "low"), ("_high", "high"))}
    used = rows[(rows["experiment"] == one.experiment) & (rows["ratio"] > 0)]
    measures = int(used.reindex(columns=[*ALL_MEASURES]).notna().any().sum())
    cells = measures * (used["curve"].nunique() - 1) * used["task"].nunique() * used["ratio"].nunique()
    return {**line, "experiment": one.experiment, "measure": one.measure, "cells": cells, "where": _where(one)}


def _where(one: Difference) -> str:
    """The words of `python -m analysis` that show it with everything around it, its measure among that."""
    shown = entries()[one.table].shows
    more = f" --measure {one.measure}" if shown and one.measure in MEASURE_OF and one.measure not in shown else ""
    return f"{one.table}{more} --experiment {one.experiment}"


def _of_paper(gains: Mapping[str, float], where: str) -> dict[str, Any]:
    values = np.array([*gains.values()])
    extreme = max(gains, key=lambda task: abs(gains[task] - values.mean()))
    rest = np.mean([gain for task, gain in gains.items() if task != extreme])
    line = {"mean": values.mean(), "ahead": int((values > TIE).sum()), "tasks": len(values), "where": where}
    return {**line, "least": rest, "least_without": task_name(extreme), "verdict": "printed"}


def _of_ranks(ours: Mapping[str, float], theirs: Mapping[str, float], where: str) -> dict[str, Any]:
    from scipy.stats import spearmanr  # here, since it takes longer to import than all else, and every command would

    tasks = [task for task in ours if task in theirs]
    rank = spearmanr([ours[task] for task in tasks], [theirs[task] for task in tasks])
    line = {"mean": float(rank.statistic), "tasks": len(tasks), "where": where}
    return {**line, "verdict": f"uncorrected p = {rank.pvalue:.2f}"}


def _of_same_heads(one: SameHeads, rows: pd.DataFrame) -> dict[str, Any] | None:
    pair = [one.curve, one.against]
    used = rows[(rows["experiment"] == one.experiment) & (rows["ratio"] > 0) & rows["curve"].isin(pair)]
    if used["curve"].nunique() < 2:
        return None
    shared = {task: [overlaps(part, ratio, pair)[0, 1] for ratio in one.ratios] for task, part in used.groupby("task")}
    by_task = pd.DataFrame(shared).dropna(axis=1).mean()  # of tasks that have all of the ratios
    if by_task.empty:
        return None
    line = {"mean": float(by_task.mean()), "ahead": int((by_task >= SAME_HEADS).sum()), "tasks": len(by_task)}
    alphas = used[used["curve"] == one.curve].groupby("task")["alpha_used"].agg(["min", "max"])
    top = alphas["min"].eq(alphas["max"].max()).sum()
    said = f"alpha is {alphas['max'].max():g} at all ratios on {top} of {len(alphas)}"
    return {**line, "where": f"figure3 --experiment {one.experiment}", "verdict": said}


def _of_choice(one: ChosenAgain, rows: pd.DataFrame, draws: int) -> dict[str, Any] | None:
    fixed = fixed_alphas(rows[rows["experiment"] == one.experiment])
    his = rows[(rows["experiment"] == one.against) & (rows["curve"] == HIS)]
    try:
        gains = chosen_again(fixed, his, one.ratios, draws) if len(fixed) else {}
    except Unavailable as reason:
        warn_of_rows(f"{one.key} of {one.experiment} is left out of the findings: {reason}.")
        return None
    if not gains:
        return None
    again, once = np.mean([*gains.values()], axis=0)  # [2, D], mean over tasks
    low, high = np.nanquantile(again, [0.025, 0.975])
    by_task = np.array([np.nanmean(task[0]) for task in gains.values()])
    line = {"mean": float(np.nanmean(again)), "low": low, "high": high, "tasks": len(gains)}
    line |= {"ahead": int((by_task > TIE).sum()), "draws": fixed["seed"].nunique()}
    said = f"{TOO_FEW}; width {high - low:.2f}, with one choice {np.ptp(np.nanquantile(once, [0.025, 0.975])):.2f}"
    return {**line, "verdict": said, "where": f"alphas --experiment {one.experiment}"}


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    """The table for readers."""
    texts = pd.DataFrame([effect_texts(row) for row in data.to_dict("records")], index=data.index)
    cells = data["cells"].map(lambda cells: number(cells, ".0f"))
    shown = [data[["finding", "key"]], texts, data["verdict"], cells, data["where"].rename("where to look")]
    return pd.concat(shown, axis=1)


def effect_texts(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns the numbers of a line as tables and pages print them."""
    digits = measure_of(str(row["measure"])).digits
    rest = {name: row[f"least{suffix}"] for name, suffix in (("mean", ""), ("low", "_low"), ("high", "_high"))}
    without = (
        f"{signed_interval(rest, digits)} ({row['least_without']})" if isinstance(row["least_without"], str) else ""
    )
    low, high = (signed_number(row[name], digits) for name in ("task_low", "task_high"))
    over = f"[{low}, {high}]" if low else ""
    ahead = f"{row['ahead']:.0f} of {row['tasks']:.0f}" if row["ahead"] == row["ahead"] else ""
    effect = f"{row['mean']:.2f}" if str(row["key"]).startswith("same-heads") else signed_interval(row, digits)
    return {"effect": effect, "over tasks": over, "without one task": without, "ahead": ahead}
