"""Which entropy of attention: several measures of spread, all functions of a Renyi entropy, all scaled to [0, 1]."""

from dataclasses import dataclass

from torch import Tensor

from hies import equations
from hies.errors import HiesError

# kind -> the order of the Renyi entropy that it is a function of; None: the order is given.
KINDS: dict[str, float | None] = {
    "shannon": 1.0,
    "renyi": None,
    "tsallis": None,
    "min": float("inf"),
    "gini": 2.0,
    "support": 1.0,
}
PREFIX = "ae:"


@dataclass(frozen=True)
class Entropy:
    """A measure of how widely a query spreads its attention: 0 for one key, 1 for all keys alike.

    kind: `shannon` (the paper), `renyi` and `tsallis` of an order, `min` (Renyi of infinite order: the largest weight
    alone), `gini` (Gini-Simpson, Tsallis of order 2), `support` (effective number of keys, exp of Shannon's).
    order: positive, finite, not 1; for renyi and tsallis alone.
    """

    kind: str = "shannon"
    order: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise HiesError(f"criterion.entropy is {self.kind!r}; use {', '.join(KINDS)}.")
        takes_order = KINDS[self.kind] is None
        if takes_order != (self.order is not None):
            raise HiesError(
                f"criterion.entropy is {self.kind} and criterion.order {self.order}; renyi and tsallis need an order, "
                "the other entropies take none."
            )
        if self.order is not None and (self.order == 1 or not 0 < self.order < float("inf")):
            raise HiesError(
                f"criterion.order is {self.order}; it is positive, finite and not 1 (order 1 is entropy=shannon)."
            )

    @property
    def need(self) -> str:
        """The name of its statistic in `hies.collect(need=...)`: `ae` for Shannon's, else for example `ae:renyi-2`."""
        if self == Entropy():
            return "ae"
        if self.order is None:
            return PREFIX + self.kind
        short = f"{self.order:g}"
        return f"{PREFIX}{self.kind}-{short if float(short) == self.order else repr(float(self.order))}"

    @property
    def renyi_order(self) -> float:
        """The order of the Renyi entropy that it is a function of."""
        order = self.order if KINDS[self.kind] is None else KINDS[self.kind]
        assert order is not None
        return order

    def relative(self, entropy: Tensor, visible: Tensor) -> Tensor:
        """In [0, 1]; NaN where a query sees one key or none.

        Args:
            entropy: Renyi entropy of `renyi_order` in nats, [batch, heads, tokens].
            visible: the number of keys that a query sees, broadcastable to `entropy`.
        """
        if self.kind in ("tsallis", "gini"):
            return equations.relative_tsallis_entropy(entropy, visible, self.renyi_order)
        if self.kind == "support":
            return equations.relative_effective_support(entropy, visible)
        return equations.relative_entropy(entropy, visible)


def entropy_named(need: str) -> Entropy:
    """The entropy whose statistic is called `need`, the inverse of `Entropy.need`.

    Raises:
        HiesError: no such entropy.
    """
    if need == "ae":
        return Entropy()
    kind, _, order = need.removeprefix(PREFIX).partition("-")
    try:
        return Entropy(kind, float(order) if order else None)
    except ValueError:
        raise HiesError(f"need names {need!r}, whose order is no number; for example ae:renyi-2.") from None
