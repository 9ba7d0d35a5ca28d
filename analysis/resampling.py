"""The runs of one task, measured on their examples and on resamples of them.

Shapes: runs K, ratios R, examples N, draws D, seeds S.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import weighted
from analysis.errors import Unavailable
from analysis.scores import load_arrays

EVENNESS = "evenness"
CELLS = 5_000_000  # of the matrix of counts [draws, examples] that is held at once


@dataclass(frozen=True)
class Runs:
    """What jobs of one task answered at the ratios that all of them have.

    labels: [N]. answers: predictions of the pruned models, [K, R, N]. unpruned: those of the unpruned one, [K, N].
    unevenness: spread of the removed heads over the sites, [K, R].
    """

    metric: str
    paths: list[str]
    ratios: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    unpruned: np.ndarray
    unevenness: np.ndarray

    def measured(self, resamples: Iterable[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each measure its values, [K, R], and its values on the resampled examples, [D, K, R].

        resamples: matrices [some draws, N] of how often a draw takes each example.
        """
        whole = self._measure(np.ones((1, len(self.labels))))
        parts = [self._measure(counts) for counts in resamples]
        found = {name: (whole[name][0], np.concatenate([part[name] for part in parts])) for name in whole}
        draws = len(found["quality"][1])
        return found | {EVENNESS: (self.unevenness, np.broadcast_to(self.unevenness, (draws, *self.unevenness.shape)))}

    def _measure(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        runs, ratios, examples = self.answers.shape
        flat = self.answers.reshape(runs * ratios, examples)
        unpruned = np.repeat(self.unpruned, ratios, axis=0)
        quality = weighted.quality(self.metric, self.labels, flat, counts)
        stability = weighted.stability(flat, unpruned, counts)
        return {
            name: values.reshape(-1, runs, ratios) for name, values in (("quality", quality), ("stability", stability))
        }


def read_runs(rows: pd.DataFrame) -> Runs:
    """All runs of these rows of one task.

    Raises:
        Unavailable: no ratio in common, no predictions, other examples, or a metric that is not known here.
    """
    task, metric = rows["task"].iloc[0], rows["metric"].iloc[0]
    if metric not in weighted.METRICS:
        raise Unavailable(f"the metric {metric} of {task} cannot be recomputed on resampled examples")
    masks = {path: dict(zip(part["ratio"], part["mask"], strict=True)) for path, part in rows.groupby("path")}
    ratios = sorted(set.intersection(*(set(part) for part in masks.values())) - {0.0})
    if not ratios:
        raise Unavailable(f"the runs of {task} have no ratio in common")
    arrays = {path: load_arrays({"path": path}) for path in masks}
    labels = next(iter(arrays.values()))["labels"]
    for path, found in arrays.items():
        if not np.array_equal(labels, found["labels"]):
            raise Unavailable(f"{path} was evaluated on other examples than the other runs of {task}")
    answers = np.array([found["predictions"][_lines(found["ratios"], [0.0, *ratios])] for found in arrays.values()])
    uneven = [[_unevenness(arrays[path], masks[path][ratio]) for ratio in ratios] for path in masks]
    return Runs(metric, list(masks), np.array(ratios), labels, answers[:, 1:], answers[:, 0], np.array(uneven))


def unevenness(heads: Sequence[int], removed: Sequence[int]) -> float:
    """Standard deviation over the sites of the share of their heads that is removed, in percentage points."""
    return float(100 * np.std(np.array(removed) / np.array(heads)))


def example_counts(task: str, examples: int, draws: int) -> Iterator[np.ndarray]:
    """Matrices [some draws, N] of how often a draw takes each example; the same on every call."""
    generator = np.random.default_rng([0, zlib.crc32(task.encode())])
    at_once = max(1, CELLS // examples)
    for start in range(0, draws, at_once):
        chosen = (generator.integers(0, examples, examples) for _ in range(start, min(start + at_once, draws)))
        yield np.array([np.bincount(one, minlength=examples) for one in chosen])


def seed_counts(task: str, seeds: int, draws: int) -> np.ndarray:
    """How often a draw takes each seed, [D, S]; the same for all curves of a task with as many seeds."""
    generator = np.random.default_rng([1, zlib.crc32(task.encode())])
    chosen = generator.integers(0, seeds, (draws, seeds))
    return (chosen[:, :, None] == np.arange(seeds)).sum(axis=1)


def _lines(there: np.ndarray, wanted: list[float]) -> list[int]:
    return [int(np.abs(there - ratio).argmin()) for ratio in wanted]


def _unevenness(arrays: dict[str, np.ndarray], mask: dict[str, list[int]]) -> float:
    return unevenness(arrays["heads"].tolist(), [len(mask.get(str(site), ())) for site in arrays["sites"]])
