"""HIES against HIS at every size of the calibration set, and k of alpha = n / (n + k) as other tasks choose it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import Unavailable
from analysis.stats.overlap import mean_jaccard
from analysis.stats.pairing import PROTOCOL_KEYS, with_references
from analysis.stats.significance import (
    DRAWS,
    ESTIMATE,
    MEAN,
    Gain,
    Sample,
    averaged_gains,
    curve_differences,
    estimates,
    mean_over_tasks,
)
from analysis.text.labels import without_word
from analysis.text.measures import averaged

SIZE = "calibration_size"
GainsOfSizes = dict[int, list[Gain]]
SIZE_COLUMNS = ["criterion", SIZE, "ratio", "measure", "task", "tasks", *ESTIMATE]
CHOICE_COLUMNS = ["measure", "task", "tasks", "criterion", "sizes", *ESTIMATE]


def gains_of_sizes(rows: pd.DataFrame, draws: int = DRAWS) -> GainsOfSizes:
    """Returns of each calibration size every measure of each task and HIES curve, against HIS of this size and draw.

    Raises:
        Unavailable: fewer than two sizes have both, several forms or checkpoints of HIS, or as `curve_differences`.
    """
    found: GainsOfSizes = {}
    for size, part in without_word(rows, SIZE).groupby(SIZE):
        jobs = part[part["ratio"] > 0].drop_duplicates("path")
        pairs = with_references(jobs[jobs["criterion"] == "hies"], jobs[jobs["criterion"] == "his"], PROTOCOL_KEYS)
        if pairs["against"].nunique() > 1:
            raise Unavailable(f"it cannot choose between several curves of HIS: {', '.join(pairs['against'].unique())}")
        if not pairs.empty:
            found[int(str(size))] = curve_differences(part, pairs, draws)
    if len(found) < 2:
        raise Unavailable("it takes rows of hies and his, on the same seeds, of at least two calibration sizes")
    return found


def differences_by_size(gains: GainsOfSizes, measures: Sequence[str]) -> pd.DataFrame:
    """Returns a line for each curve, size, ratio, measure and task, and the mean over tasks: SIZE_COLUMNS."""
    lines: list[dict[str, object]] = []
    for size, of_size in gains.items():
        ratios = sorted({ratio for gain in of_size for ratio in gain.ratios.tolist()})
        windows = {ratio: partial(np.equal, ratio) for ratio in ratios}
        shown = [gain for measure in measures for gain in of_size if gain.measure == measure]
        lines += [{**line, SIZE: size, "ratio": line["window"]} for line in estimates(shown, windows)]
    return pd.DataFrame(lines, columns=SIZE_COLUMNS)


def means_by_size(differences: pd.DataFrame) -> pd.DataFrame:
    """Returns the lines of `differences_by_size` to show: means over all tasks of a measure, or of the only task."""
    means = differences[differences["task"] == MEAN] if differences["task"].nunique() > 1 else differences
    return means[means["tasks"] == means.groupby("measure")["tasks"].transform("max")]


def levels_by_size(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Returns what a curve has itself: a line for each curve, size, ratio and measure, `level`, mean over tasks.

    There is none where a task of the measure has no number. At the ratio 0 it is the unpruned model's.
    """
    found = []
    for measure in measures:
        plain = without_word(averaged(rows, measure), SIZE)
        by_task = plain.groupby(["curve", SIZE, "ratio", "task"])[measure].mean().unstack()
        means = by_task.dropna(axis=1, how="all").mean(axis=1, skipna=False).dropna()
        found.append(means.rename("level").reset_index().assign(measure=measure))
    return pd.concat(found, ignore_index=True)


def agreement_of_draws(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns how far the draws of each curve, size and ratio remove the same heads: mean Jaccard, mean over tasks.

    There is none where a task has no two draws.
    """
    pruned, keys = without_word(rows[rows["ratio"] > 0], SIZE), ["curve", SIZE, "ratio"]
    by_task = pruned.groupby([*keys, "task"])["mask"].agg(mean_jaccard).unstack()
    whole = by_task.mean(axis=1, skipna=False).dropna().rename("agreement")
    return whole.reset_index().rename(columns={"curve": "criterion"})


def chosen_on_other_tasks(gains: GainsOfSizes, candidates: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Returns each task's gain over HIS with the candidate of the best mean on all other tasks: CHOICE_COLUMNS.

    A gain is the mean over calibration sizes and ratios. What is reported of a task has no part in the choice for it,
    and the interval takes the choice as given.

    Args:
        gains: of `gains_of_sizes`.
        candidates: curves, such as alpha = n / (n + k) of several k; of equal ones the first is chosen.
        measures: each chooses for itself.

    Raises:
        Unavailable: fewer than two candidates, or than two tasks that have all of them at the same sizes.
    """
    lines = [line for measure in measures for line in _held_out(gains, candidates, measure)]
    if not lines:
        raise Unavailable(
            "it takes two curves of HIES with alpha = n / (n + k), both on the same two tasks or more, at a "
            "size that all of these have"
        )
    return pd.DataFrame(lines, columns=CHOICE_COLUMNS)


def _held_out(gains: GainsOfSizes, candidates: Sequence[str], measure: str) -> Iterator[dict[str, object]]:
    by_task = _samples(gains, candidates, measure)
    if len(candidates) < 2 or len(by_task) < 2:
        return
    chosen = {}
    for task in by_task:
        others = [samples for other, (samples, _) in by_task.items() if other != task]
        means = {name: np.mean([one[name].mean * one[name].better for one in others]) for name in candidates}
        known = {name: float(np.nan_to_num(mean, nan=-np.inf)) for name, mean in means.items()}
        chosen[task] = max(known, key=known.__getitem__)
    samples = {task: by_task[task][0][curve] for task, curve in chosen.items()}
    for task, sample in samples.items():
        line = {"measure": measure, "task": task, "tasks": 1, "criterion": chosen[task], "sizes": by_task[task][1]}
        yield {**line, **sample.estimate()}
    yield {"measure": measure, "task": MEAN, "tasks": len(samples), "criterion": "", "sizes": "",
           **mean_over_tasks(list(samples.values())).estimate()}  # fmt: skip


def _samples(gains: GainsOfSizes, candidates: Sequence[str], measure: str) -> dict[str, tuple[dict[str, Sample], str]]:
    """Returns task -> (candidate -> its mean over sizes and ratios, which sizes), of tasks that have all of them.

    Sizes of which some draws are not there yet have no part in it.
    """
    found: dict[str, dict[str, dict[int, Gain]]] = defaultdict(lambda: defaultdict(dict))
    every = [(size, gain) for size, of_size in gains.items() for gain in of_size if gain.measure == measure]
    tasks = {gain.task for gain in averaged_gains([gain for _, gain in every])}  # of one unit, whatever their sizes
    for size, gain in every:
        if gain.task in tasks:
            found[gain.task][gain.curve][size] = gain
    sizes_of = {}
    for task, by_curve in found.items():
        most = max(len(gain.values) for by_size in by_curve.values() for gain in by_size.values())
        whole = [{size for size, gain in by_curve[name].items() if len(gain.values) == most} for name in candidates]
        if sizes := set.intersection(*whole) if whole else set():
            sizes_of[task] = sizes
    shared = sorted(set.intersection(*sizes_of.values())) if sizes_of else []  # a task is chosen for by all others
    if not shared:
        return {}
    words = " ".join(map(str, shared))
    return {
        task: ({name: _joined([found[task][name][size] for size in shared]) for name in candidates}, words)
        for task in sizes_of
    }


def _joined(gains: Sequence[Gain]) -> Sample:
    """Returns the mean of gains on the same draws and examples, over all their ratios."""
    names = ("ratios", "reference", "values", "resampled")  # all [..., R]
    joined: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in gains], axis=-1) for name in names}
    one = replace(gains[0], **joined)
    return one.over(np.ones(len(one.ratios), dtype=bool))
