"""Kinds of entropy of attention, all of them functions of a Renyi entropy, all scaled to [0, 1]."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import hies
from hies.errors import ParameterError, check_choice

if TYPE_CHECKING:  # methods declare their knobs without torch
    from torch import Tensor

# kind -> the order of the Renyi entropy that it is a function of; None: it takes an order.
ENTROPIES: dict[str, float | None] = {
    "shannon": 1.0,
    "renyi": None,
    "tsallis": None,
    "min": float("inf"),
    "gini": 2.0,
    "support": 1.0,
}
ENTROPY_PREFIX = "ae:"


@dataclass(frozen=True)
class Entropy:
    """A measure of how widely a query spreads its attention: 0 for one key, 1 for all keys alike.

    Attributes:
        kind: `shannon` (the paper), `renyi` and `tsallis` of an order, `min` (Renyi of infinite order: the largest
            weight alone), `gini` (Gini-Simpson, Tsallis of order 2), `support` (effective number of keys, exp of
            Shannon's).
        order: positive, finite, not 1; for renyi and tsallis alone.
    """

    kind: str = "shannon"
    order: float | None = None

    def __post_init__(self) -> None:
        check_choice("entropy", self.kind, ENTROPIES)  # named as in the methods whose knobs these are
        if ENTROPIES[self.kind] is not None:
            if self.order is not None:
                raise ParameterError("order", self.order, f"entropy={self.kind} takes none, renyi and tsallis do")
        elif self.order is None or self.order == 1 or not 0 < self.order < float("inf"):
            expected = f"entropy={self.kind} takes an order that is positive, finite and not 1 (that is shannon)"
            raise ParameterError("order", self.order, expected)

    @property
    def need(self) -> str:
        """The name of its statistic in `hies.collect(need=...)`: `ae` for Shannon's, else for example `ae:renyi-2`."""
        if self == Entropy():
            return "ae"
        if self.order is None:
            return ENTROPY_PREFIX + self.kind
        short = f"{self.order:g}"
        return f"{ENTROPY_PREFIX}{self.kind}-{short if float(short) == self.order else repr(float(self.order))}"

    @property
    def renyi_order(self) -> float:
        """The order of the Renyi entropy that it is a function of."""
        order = self.order if ENTROPIES[self.kind] is None else ENTROPIES[self.kind]
        assert order is not None
        return order

    def relative(self, entropy: "Tensor", visible: "Tensor") -> "Tensor":
        """Returns the entropy in [0, 1]; NaN where a query sees one key or none.

        Args:
            entropy: Renyi entropy of `renyi_order` in nats, [batch, heads, tokens].
            visible: the number of keys that a query sees, broadcastable to `entropy`.
        """
        if self.kind in ("tsallis", "gini"):
            return hies.equations.relative_tsallis_entropy(entropy, visible, self.renyi_order)
        if self.kind == "support":
            return hies.equations.relative_effective_support(entropy, visible)
        return hies.equations.relative_entropy(entropy, visible)


def entropy_named(need: str) -> Entropy:
    """Returns the entropy whose statistic is called `need`, the inverse of `Entropy.need`; others are refused."""
    if need == "ae":
        return Entropy()
    kind, _, order = need.removeprefix(ENTROPY_PREFIX).partition("-")
    try:
        number = float(order) if order else None
    except ValueError:
        raise ParameterError("need", need, "its order is no number; an example is ae:renyi-2") from None
    return Entropy(kind, number)
