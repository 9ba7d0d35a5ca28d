"""What is known of a pruned model on a split, and how many forward passes that took."""

from dataclasses import dataclass, field

import numpy as np

from hies.efficiency.cost import Cost

MEASURED = ("predictions", "seconds", "prune_seconds", "parameters", "flops")  # what is kept besides other rules


@dataclass
class PassCounter:
    """Counts what evaluators were asked for, and what it took.

    Attributes:
        asked: evaluations of pruned models that were asked for, by task and split.
        distinct: the keys of the different ones among them.
        evaluated: how many of them were computed now, not read from the cache.
        needed: what had to be computed at some time -> its forward passes, counted in examples.
        naive: how many passes it would take if every cell of the grid (a ratio of a curve, or an alpha tried for it)
            scored and evaluated on its own.
    """

    asked: int = 0
    distinct: set[str] = field(default_factory=set)
    evaluated: int = 0
    needed: dict[str, int] = field(default_factory=dict)
    naive: int = 0


@dataclass(frozen=True)
class Evaluation:
    """A pruned model on the report split.

    Attributes:
        answers: its answers, [examples].
        cost: its parameters and FLOPs; None where they cannot be known.
        eval_seconds: what its answers took.
        prune_seconds: calibration, pruning and tuning, of a method; NaN for masks, which share their calibration pass.
        by_rule: the answers by other rules, see `Task.answers`.
    """

    answers: np.ndarray
    cost: Cost | None
    eval_seconds: float
    prune_seconds: float = float("nan")
    by_rule: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], cost: Cost | None) -> "Evaluation":
        """Returns an evaluation from the arrays that the cache keeps of it."""
        by_rule = {name: array for name, array in arrays.items() if name not in MEASURED}
        pruning = float(arrays.get("prune_seconds", np.nan))
        return cls(arrays["predictions"], cost, float(arrays["seconds"]), pruning, by_rule)
