"""What a job evaluates, a model at each ratio as its method prunes it, and what a method needs to plan it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hies.heads.sites import Removed, Site
from hies.scoring.statistics import Statistics

if TYPE_CHECKING:  # they import this module
    from hies.methods.base import Method

Tick = Callable[[], None]  # called for every mask that the model was looked at with


class ModelOnTask(Protocol):
    """A model on a task, as far as methods look at it; `hies.evaluation` has the evaluator that is one."""

    counter: Any  # its `naive` counts the forward passes, of one example, that a grid without a cache would take

    @property
    def sites(self) -> dict[str, Site]:
        """The sites that heads may be removed from."""

    @property
    def prunable(self) -> Mapping[str, Site]:
        """The sites whose heads can be cut out, from `hies.prunable`."""

    def statistics(self, need: frozenset[str], seed: int, size: int, removed: Removed | None = None) -> Statistics:
        """Returns statistics of `size` calibration examples drawn with `seed`, the `removed` heads masked."""

    def quality(self, removed: Removed, split_name: str, examples: int | None = None) -> float | None:
        """Returns quality in percent on (the first `examples` of) a split, heads masked; None if undefined."""

    def calibration_loss(self, removed: Removed, seed: int, size: int) -> float:
        """Returns the mean loss over the calibration set, heads masked."""

    def labels(self, split_name: str) -> np.ndarray:
        """Returns the right answers of a split, [examples]."""


@dataclass(frozen=True)
class Draw:
    """Which calibration set a job takes; `Calibration` is the set itself, as batches.

    Attributes:
        seed: of the draw.
        size: how many training examples are drawn.
    """

    seed: int
    size: int


@dataclass(frozen=True)
class MaskedHeads:
    """The model with these heads removed; without any, the dense model."""

    removed: Removed = field(default_factory=dict)

    def evaluated(self, evaluator: Any) -> Any:
        """Returns what an evaluator finds out about it."""
        return evaluator.evaluate(self.removed)


@dataclass(frozen=True)
class AppliedMethod:
    """The model inside `Method.pruned`, for a method that removes no heads.

    Attributes:
        method: prunes the model.
        ratio: it is pruned at.
        draw: the calibration set.
    """

    method: "Method"
    ratio: float
    draw: Draw
    removed: Removed = field(default_factory=dict)

    def evaluated(self, evaluator: Any) -> Any:
        """Returns what an evaluator finds out about it."""
        return evaluator.evaluate_method(self.method, self.ratio, self.draw.seed, self.draw.size)


@dataclass(frozen=True)
class Plan:
    """What a job evaluates.

    Attributes:
        models: ratio -> the pruned model, 0 first; ratios beyond what the method can remove are left out.
        notes: ratio -> what a row says besides.
        arrays: sites, their number of heads and, where there are some, scores and statistics of all heads.
        seconds: what the calibration pass took that the scores come from.
    """

    models: dict[float, MaskedHeads | AppliedMethod]
    notes: dict[float, dict[str, Any]]
    arrays: dict[str, np.ndarray] = field(repr=False)
    seconds: float = 0.0


def arrays_of_sites(heads: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns the names of the sites and their numbers of heads, as a plan keeps them."""
    return {"sites": np.array(list(heads)), "heads": np.array(list(heads.values()))}
