"""The runs of one task, measured on their examples and on resamples of them.

Shapes: runs K, ratios R, examples N, draws D, seeds S.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.data.scores import load_arrays
from analysis.errors import Unavailable
from analysis.stats.weighted import WEIGHTED_METRICS, weighted_quality, weighted_stability

EVENNESS = "evenness"
COUNTS_AT_ONCE = 5_000_000  # of the matrix of counts [draws, examples] that is held at once


@dataclass(frozen=True)
class RunsOfTask:
    """What jobs of one task answered at the ratios that all of them have.

    Attributes:
        metric: of the task.
        paths: row file of each run, [K].
        ratios: [R].
        labels: [N].
        answers: predictions of the pruned models, [K, R, N].
        unpruned: predictions of the unpruned model, [K, N].
        unevenness: see `unevenness`, [K, R].
    """

    metric: str
    paths: list[str]
    ratios: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    unpruned: np.ndarray
    unevenness: np.ndarray

    def measured(self, resamples: Iterable[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns for each measure its values, [K, R], and its values on the resampled examples, [D, K, R].

        Args:
            resamples: matrices [some draws, N] of how often a draw takes each example.
        """
        whole = self._measure(np.ones((1, len(self.labels))))
        parts = [self._measure(counts) for counts in resamples]
        values = {name: (whole[name][0], np.concatenate([part[name] for part in parts])) for name in whole}
        resampled = np.broadcast_to(self.unevenness, values["quality"][1].shape)  # examples do not change the heads
        return values | {EVENNESS: (self.unevenness, resampled)}

    def _measure(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        runs, ratios, examples = self.answers.shape
        flat = self.answers.reshape(runs * ratios, examples)  # [K, R, N] -> [K R, N]
        unpruned = np.repeat(self.unpruned, ratios, axis=0)  # [K, N] -> [K R, N]
        quality = weighted_quality(self.metric, self.labels, flat, counts)
        stability = weighted_stability(flat, unpruned, counts)
        # [D, K R] -> [D, K, R]
        return {"quality": quality.reshape(-1, runs, ratios), "stability": stability.reshape(-1, runs, ratios)}


def read_runs(rows: pd.DataFrame) -> RunsOfTask:
    """Returns all runs of these rows of one task.

    Raises:
        Unavailable: no ratio in common, no predictions, other examples, or a metric that is not known here.
    """
    task, metric = rows["task"].iloc[0], rows["metric"].iloc[0]
    if metric not in WEIGHTED_METRICS:
        raise Unavailable(f"the metric {metric} of {task} cannot be recomputed on resampled examples")
    masks = {path: dict(zip(part["ratio"], part["mask"], strict=True)) for path, part in rows.groupby("path")}
    ratios = sorted(set.intersection(*(set(part) for part in masks.values())) - {0.0})
    if not ratios:
        raise Unavailable(f"the runs of {task} have no ratio in common")
    arrays = {path: load_arrays({"path": path}) for path in masks}
    labels = next(iter(arrays.values()))["labels"]
    for path, own in arrays.items():
        if not np.array_equal(labels, own["labels"]):
            raise Unavailable(f"{path} was evaluated on other examples than the other runs of {task}")
    answers = np.array([own["predictions"][_places(own["ratios"], [0.0, *ratios])] for own in arrays.values()])
    uneven = [[_unevenness(arrays[path], masks[path][ratio]) for ratio in ratios] for path in masks]
    return RunsOfTask(metric, list(masks), np.array(ratios), labels, answers[:, 1:], answers[:, 0], np.array(uneven))


def unevenness(heads: Sequence[int], removed: Sequence[int]) -> float:
    """Returns the standard deviation over the sites of the share of their heads that is removed, in percent points."""
    return float(100 * np.std(np.array(removed) / np.array(heads)))


def example_counts(task: str, examples: int, draws: int) -> Iterator[np.ndarray]:
    """Yields matrices [some draws, N] of how often a draw takes each example; the same on every call."""
    generator = np.random.default_rng([0, zlib.crc32(task.encode())])
    at_once = max(1, COUNTS_AT_ONCE // examples)
    for start in range(0, draws, at_once):
        chosen = (generator.integers(0, examples, examples) for _ in range(start, min(start + at_once, draws)))
        yield np.array([np.bincount(one, minlength=examples) for one in chosen])


def seed_counts(task: str, seeds: int, draws: int) -> np.ndarray:
    """Returns how often a draw takes each seed, [D, S]; the same for all curves of a task with as many seeds."""
    generator = np.random.default_rng([1, zlib.crc32(task.encode())])
    chosen = generator.integers(0, seeds, (draws, seeds))
    return (chosen[:, :, None] == np.arange(seeds)).sum(axis=1)


def _places(ratios: np.ndarray, wanted: list[float]) -> list[int]:
    return [int(np.abs(ratios - ratio).argmin()) for ratio in wanted]


def _unevenness(arrays: dict[str, np.ndarray], mask: dict[str, list[int]]) -> float:
    return unevenness(arrays["heads"].tolist(), [len(mask.get(str(site), ())) for site in arrays["sites"]])
