"""Ways to choose alpha of HIES: for each ratio or once for a task, by quality on a split or by calibration loss.

One more, `shrink`, chooses nothing: it follows from the size of the calibration set (`hies.equations.shrunk_alpha`).

The paper's main tables search alpha "under each compression setting" (footnote 2); its appendix D.8 takes one alpha* a
task. Choosing on the reported split is optimistic, so that has names of its own.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hies.errors import ParameterError
from hies.heads.sites import Removed
from hies.methods.planning import Draw, ModelOnTask, Tick
from hies.pruning.selection import Selection
from hies.runs.quality import weighted_area

if TYPE_CHECKING:  # it imports this module
    from hies.methods.hies import HIES

# Fine at the top end: after min-max HIS is heavy-tailed, so the entropy term dominates already at moderate alphas.
GRID = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)

# name -> (the split whose quality decides, None: the loss on the calibration examples; whether one alpha serves all
# ratios)
PROTOCOLS: dict[str, tuple[str | None, bool]] = {
    "auto": (None, False),
    "per_ratio": ("selection", False),
    "per_task": ("selection", True),
    "per_ratio_on_report": ("report", False),
    "per_task_on_report": ("report", True),
}
SHRINK = "shrink"


def best_per_ratio(values: np.ndarray, alphas: Sequence[float]) -> list[float]:
    """Returns the alpha of the highest value for each ratio; of equal ones the largest, which is nearest to HIS.

    Args:
        values: quality, or minus the loss; higher is better, NaN is worst, [alphas, ratios].
        alphas: [alphas].
    """
    order = sorted(range(len(alphas)), key=lambda i: -alphas[i])
    ranked = np.nan_to_num(values[order], nan=-np.inf)
    return [alphas[order[int(place)]] for place in ranked.argmax(axis=0)]


def best_per_task(quality: np.ndarray, ratios: Sequence[float], alphas: Sequence[float]) -> float:
    """Returns alpha*, appendix D.8: that of the largest weighted area under the quality curve; ties as above.

    Args:
        quality: in percent, NaN where undefined, [alphas, ratios].
        ratios: the pruned ratios, [ratios].
        alphas: [alphas].
    """
    return best_per_ratio(weighted_area(quality, np.array(ratios))[:, None], alphas)[0]


@dataclass(frozen=True)
class AlphaSearch:
    """The choice of alpha for a method whose alpha is the name of a protocol; the fields are those of `Method.plan`."""

    method: "HIES"
    evaluator: ModelOnTask
    draw: Draw
    selection: Selection
    ratios: Sequence[float]
    tick: Tick

    @staticmethod
    def steps(method: "HIES", ratios: Sequence[float]) -> int:
        """Returns how many masks are looked at."""
        return len(_seeds(method, 0)) * len(method.alphas) * len({*ratios} - {0.0})

    def chosen(self) -> dict[float, float]:
        """Returns ratio -> alpha."""
        pruned = sorted({*self.ratios} - {0.0})
        if not pruned:  # nothing depends on alpha
            return dict.fromkeys(self.ratios, max(self.method.alphas))
        draws = [replace(self.draw, seed=seed) for seed in _seeds(self.method, self.draw.seed)]
        found = np.empty((len(draws), len(self.method.alphas), len(pruned)))
        for draw, alpha in _in_own_order(np.ndindex(found.shape[:2]), self.draw.seed):
            found[draw, alpha] = self._values(draws[draw], self.method.alphas[alpha], pruned)
        values = found.mean(axis=0)  # [draws, alphas, ratios] -> [alphas, ratios]
        _, is_single = PROTOCOLS[str(self.method.alpha)]
        if is_single:
            return dict.fromkeys(self.ratios, best_per_task(values, pruned, self.method.alphas))
        best = dict(zip(pruned, best_per_ratio(values, self.method.alphas), strict=True))
        return {ratio: best.get(ratio, best[pruned[0]]) for ratio in self.ratios}

    def _values(self, draw: Draw, alpha: float, ratios: Sequence[float]) -> list[float]:
        """Returns what decides between alphas, higher is better, for one of them and one calibration draw: [ratios]."""
        models = self.method.at(alpha).plan(self.evaluator, draw, self.selection, ratios).models
        values = []
        for ratio in ratios:
            self.evaluator.counter.naive += draw.size
            values.append(self._value(models[ratio].removed, draw))
            self.tick()
        return values

    def _value(self, removed: Removed, draw: Draw) -> float:
        """Returns what a mask is worth to the protocol; where pruning leaves quality undefined, it is worth 0."""
        evaluator, examples = self.evaluator, self.method.tuning_examples
        split, _ = PROTOCOLS[str(self.method.alpha)]
        if split is None:
            evaluator.counter.naive += draw.size
            return -evaluator.calibration_loss(removed, draw.seed, draw.size)
        size = len(evaluator.labels(split))
        evaluator.counter.naive += min(size, examples or size)
        quality = evaluator.quality(removed, split, examples)
        if quality is None and evaluator.quality({}, split, examples) is None:
            reason = "it chooses by quality, but the task has none here even without pruning"
            raise ParameterError("alpha", self.method.alpha, f"{reason}; give a number, such as 0.9")
        return 0.0 if quality is None else quality


def _in_own_order(cells: Iterable[tuple[int, ...]], seed: int) -> list[tuple[int, ...]]:
    """Returns the cells in an order of this job and process, whose numbers containers may share.

    Of two at one search neither then waits for what the other computes; what is found is the same in every order.
    """
    listed = [*cells]
    return [listed[place] for place in np.random.default_rng([seed, os.getpid()]).permutation(len(listed))]


def _seeds(method: "HIES", seed: int) -> list[int]:
    """The calibration draws over which the deciding quality is averaged; the loss is that of the job's own draw."""
    split, _ = PROTOCOLS[str(method.alpha)]
    return [seed] if split is None else list(range(method.tuning_seeds))
