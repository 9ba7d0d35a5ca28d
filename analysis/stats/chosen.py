"""The choice of alpha as a source of chance of its own: it is made again on every resample.

Rows hold the answers of fixed alphas on the report split alone, not those on the selection split on which alpha was
chosen. So half of the report examples take the place of the selection split, and the other half is reported.
Shapes: alphas A, seeds S, ratios R, examples N, draws D.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.data.scores import arrays_of_task, lines_at
from analysis.errors import Unavailable
from analysis.stats.pairing import with_references
from analysis.stats.resampling import weighted_quality


def chosen_again(fixed: pd.DataFrame, his: pd.DataFrame, ratios: Sequence[float], draws: int) -> dict[str, np.ndarray]:
    """Returns by task the gain in quality over HIS, mean over the ratios, with alpha chosen for each ratio, [2, D].

    Args:
        fixed: rows of HIES with numbers for alpha, one curve a task and alpha.
        his: rows of one curve of HIS; only seeds of the same checkpoint and data that both have count.
        ratios: for each of which alpha is chosen.
        draws: of seeds and examples.

    Returns:
        first with alpha chosen anew in every draw, then with the alpha that is best on all examples.

    Raises:
        Unavailable: all alphas have no seed in common, or the runs not these ratios or the same examples.
    """
    keys = ["model", "task", "seed", "checkpoint", "data"]
    jobs = with_references(fixed.drop_duplicates("path"), his.drop_duplicates("path"), keys)
    return {str(task): _of_task(str(task), part, ratios, draws) for task, part in jobs.groupby("task")}


def _of_task(task: str, jobs: pd.DataFrame, ratios: Sequence[float], draws: int) -> np.ndarray:
    of_alpha = jobs.pivot(index="alpha", columns="seed", values="path").dropna(axis=1)[::-1]  # the largest alpha first
    (alphas, seeds), of_his = of_alpha.shape, jobs.drop_duplicates("seed").set_index("seed")["path_against"]
    if not seeds:
        raise Unavailable(f"the alphas on {task} have no seed in common")
    paths = [*of_alpha.to_numpy().ravel(), *of_his[of_alpha.columns]]
    arrays = arrays_of_task(paths, task)
    answers = np.concatenate([lines_at(arrays[path], "predictions", ratios) for path in paths])
    labels, metric = arrays[paths[0]]["labels"], jobs["metric"].iloc[0]
    shape = (-1, alphas + 1, seeds, len(ratios))
    rng = np.random.default_rng([2, zlib.crc32(task.encode())])
    halves = [_two_halves(rng, len(labels)) for _ in range(draws)]
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds  # [D, S]
    parts = [weighted_quality(metric, labels, answers, np.array(part)) for part in zip(*halves, strict=True)]
    # [D, A + 1, S, R] -> [D, A + 1, R]; HIS is the last
    to_choose, to_report = ((weights[:, None, :, None] * part.reshape(shape)).sum(axis=2) for part in parts)
    whole = weighted_quality(metric, labels, answers, np.ones((1, len(labels)))).reshape(shape).mean(axis=2)
    gains = to_report[:, :-1] - to_report[:, -1:]
    chosen = [_best(to_choose[:, :-1]), np.broadcast_to(_best(whole[:, :-1]), (draws, 1, len(ratios)))]
    return np.array([np.take_along_axis(gains, best, axis=1)[:, 0].mean(axis=1) for best in chosen])


def _two_halves(rng: np.random.Generator, examples: int) -> list[np.ndarray]:
    """How often each example counts in a resample of one random half, and in one of the other, each [N]."""
    order = rng.permutation(examples)
    parts = (order[: examples // 2], order[examples // 2 :])
    return [np.bincount(rng.choice(part, len(part)), minlength=examples) for part in parts]


def _best(quality: np.ndarray) -> np.ndarray:
    """Of equal alphas the first, the nearest to HIS; [D, A, R] -> [D, 1, R]."""
    return np.nan_to_num(quality, nan=-1).argmax(axis=1)[:, None]
