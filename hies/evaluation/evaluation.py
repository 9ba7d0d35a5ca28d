"""What an evaluation of a pruned model gives, and the counter of what evaluations take."""

from dataclasses import dataclass, field

import numpy as np

from hies.efficiency.cost import Cost
from hies.runs.schema import LOSSES

MEASURED = ("predictions", *LOSSES, "seconds", "prune_seconds", "parameters", "flops", "tokens")  # but other rules


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
        losses: a key of `LOSSES` -> the loss of each example, [examples]; answers that were cached before losses were
            have none.
        tokens: what their log-likelihoods took, `computed` and `plain` of `hies.tasks.base.TOKENS`, [2]; None where
            there are none, or the answers were cached before they were counted.
    """

    answers: np.ndarray
    cost: Cost | None
    eval_seconds: float
    prune_seconds: float = float("nan")
    by_rule: dict[str, np.ndarray] = field(default_factory=dict)
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: np.ndarray | None = None

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], cost: Cost | None) -> "Evaluation":
        """Returns an evaluation from the arrays that the cache keeps of it."""
        by_rule = {name: array for name, array in arrays.items() if name not in MEASURED}
        losses = {name: arrays[name] for name in LOSSES if name in arrays}
        pruning = float(arrays.get("prune_seconds", np.nan))
        measured = (pruning, by_rule, losses, arrays.get("tokens"))
        return cls(arrays["predictions"], cost, float(arrays["seconds"]), *measured)
