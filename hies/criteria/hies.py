"""HIES, section 4.1: importance and entropy together."""

from dataclasses import dataclass
from typing import ClassVar

from hies import equations
from hies.criteria.base import Criterion
from hies.criteria.normalization import NORMALIZATIONS, normalize
from hies.errors import HiesError
from hies.sites import SiteTensors
from hies.statistics import Statistics


@dataclass(frozen=True)
class HIES(Criterion):
    """Score = alpha * HIS^ + (1 - alpha) * (1 - AE^).

    alpha: weight of the importance, in [0, 1). normalize: what ^ stands for, `global` (the paper's), `layer`, `rank`.
    """

    name: ClassVar[str] = "hies"
    need: ClassVar[frozenset[str]] = frozenset({"his", "ae"})

    alpha: float = 0.9
    normalize: str = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise HiesError(
                f"criterion.alpha is {self.alpha}; it must be at least 0 and below 1 (for HIS alone: criterion=his)."
            )
        if self.normalize not in NORMALIZATIONS:
            raise HiesError(f"criterion.normalize is {self.normalize!r}; use {', '.join(NORMALIZATIONS)}.")

    def score(self, statistics: Statistics) -> SiteTensors:
        """HIES_h in [0, 1]."""
        importance = normalize(statistics.his, self.normalize)
        entropy = normalize(statistics.ae, self.normalize)
        return {site: equations.combine(importance[site], entropy[site], self.alpha) for site in importance}
