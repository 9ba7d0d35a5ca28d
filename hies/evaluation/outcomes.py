"""What is known of a pruned model on a split, and the count of what was asked and computed."""

from dataclasses import dataclass, field

import numpy as np

from hies.efficiency.cost import Cost

OUTCOME = ("predictions", "seconds", "prune_seconds", "parameters", "flops")  # what an evaluation keeps besides answers


@dataclass
class Tally:
    """What was asked of workbenches: pruned models by task and split (asked, distinct), how many were evaluated now.

    needed: what had to be computed at some time -> its forward passes, counted in examples. naive: how many it would
    take if every cell of the grid (a ratio of a curve, or an alpha tried for it) scored and evaluated on its own.
    """

    asked: int = 0
    distinct: set[str] = field(default_factory=set)
    evaluated: int = 0
    needed: dict[str, int] = field(default_factory=dict)
    naive: int = 0


@dataclass(frozen=True)
class Outcome:
    """A pruned model on the report split: answers [examples], what it is, and the seconds it took.

    prune_seconds: calibration, pruning and tuning, of a method; NaN for masks, which share their calibration pass.
    cost: None where it cannot be known. others: the answers by other rules, see `PromptTask.answers`.
    """

    answers: np.ndarray
    cost: Cost | None
    eval_seconds: float
    prune_seconds: float = float("nan")
    others: dict[str, np.ndarray] = field(default_factory=dict)


def others(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the arrays of an evaluation, the answers by other rules."""
    return {name: array for name, array in found.items() if name not in OUTCOME}
