"""How far the criteria agree: the overlap of the heads they remove, and the correlation of their rankings."""

from collections.abc import Callable
from itertools import product
from typing import TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.data.scores import load_scores
from analysis.errors import Unavailable
from analysis.registry import OF_TASK, figure
from analysis.stats.overlap import correlation_of_ranks, jaccard, removed_heads
from analysis.text.captions import caption, heading, percent, without_heads
from analysis.text.labels import ordered_curves

Compared = TypeVar("Compared")


@figure(
    "agreement",
    about="How far criteria agree: Jaccard overlap of the removed heads, Spearman correlation of the scores.",
    needs="rows and score files of at least two criteria, at the ratio 0.3 or 0.5",
    per=OF_TASK,
)
def draw_agreement(rows: pd.DataFrame, ratios: tuple[float, ...] = (0.3, 0.5)) -> list[Axes]:
    """Draws a matrix for each ratio and one for the scores; means over the seeds that both criteria have.

    Methods that remove no heads have no part in it.
    """
    left_out = without_heads(rows)
    rows = rows[~rows["curve"].isin(left_out)]
    curves = ordered_curves(rows)
    ratios = tuple(ratio for ratio in ratios if np.isclose(rows["ratio"], ratio).any())
    if len(curves) < 2 or not ratios:
        raise Unavailable("it takes two criteria that remove heads, with rows at one of its ratios")
    side = max(2.8, 0.52 * len(curves) + 0.6)
    canvas = style.new_figure((len(ratios) + 1) * side + 1.4, side + 2)
    panels = list(canvas.subplots(1, len(ratios) + 1, sharey=True))
    names = [style.wrapped(curve) for curve in curves]
    for axes in panels:
        axes.set_xticks(range(len(curves)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(curves)), names)
    for axes, ratio in zip(panels, ratios, strict=False):
        title = f"Removed at {percent(ratio)}: Jaccard\n(chance: about {ratio / (2 - ratio):.2f})"
        _matrix(axes, overlaps(rows, ratio, curves), title, "Blues", low=0)
    _matrix(panels[-1], correlations(rows, curves), "Scores: Spearman\n(chance: 0)", "RdBu_r", low=-1)
    text = f"{caption(rows)}. Mean over draws; 1: the same heads, or the same ranking."
    text += f" Left out, since they remove no heads: {', '.join(left_out)}." if left_out else ""
    style.headline(canvas, f"Agreement of the criteria: {heading(rows)}", text)
    return panels


def overlaps(rows: pd.DataFrame, ratio: float, curves: list[str]) -> np.ndarray:
    """Returns the mean Jaccard overlap of the removed heads for each pair of curves: [curves, curves]."""
    rows = rows.loc[np.isclose(rows["ratio"], ratio), ["curve", "seed", "mask"]]
    removed = {(curve, seed): removed_heads(mask) for curve, seed, mask in rows.itertuples(index=False)}
    return _mean_over_seeds(removed, curves, jaccard)


def correlations(rows: pd.DataFrame, curves: list[str]) -> np.ndarray:
    """Returns the mean Spearman correlation of the scores for each pair of curves: [curves, curves].

    NaN where one of the two is constant, or a score file holds no scores.
    """
    runs = rows.drop_duplicates(["curve", "seed"]).to_dict("records")
    files = {(row["curve"], row["seed"]): load_scores({"path": row["path"]}).values for row in runs}
    ranks = {run: pd.Series(values["scores"]).rank() for run, values in files.items() if "scores" in values}
    return _mean_over_seeds(ranks, curves, correlation_of_ranks)


def _mean_over_seeds(
    values: dict[tuple[str, int], Compared], curves: list[str], compare: Callable[[Compared, Compared], float]
) -> np.ndarray:
    matrix = np.full((len(curves), len(curves)), np.nan)
    seeds = {seed for _, seed in values}
    for (i, first), (j, second) in product(enumerate(curves), repeat=2):
        shared = sorted(seed for seed in seeds if (first, seed) in values and (second, seed) in values)
        pairs = [compare(values[first, seed], values[second, seed]) for seed in shared]
        defined = [value for value in pairs if not np.isnan(value)]
        matrix[i, j] = np.mean(defined) if defined else np.nan
    return matrix


def _matrix(axes: Axes, matrix: np.ndarray, title: str, cmap: str, low: float) -> None:
    image = axes.imshow(matrix, cmap=cmap, vmin=low, vmax=1)
    for (i, j), value in np.ndenumerate(matrix):
        text = "n/a" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
        ink = style.ink_on("white" if np.isnan(value) else image.cmap(image.norm(value)))
        axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color=ink)
    axes.set_title(title)
    style.plain_box(axes)
