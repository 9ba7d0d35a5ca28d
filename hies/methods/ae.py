"""AE: entropy alone, the ablation of HIES at alpha = 0."""

from dataclasses import dataclass
from typing import ClassVar

from hies import equations
from hies.heads.sites import SiteTensors
from hies.methods.base import Criterion
from hies.scoring.entropy_kinds import Entropy
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class AE(Criterion):
    """Score = 1 - AE_h: the heads of LARGEST entropy, which spread their attention, go first. Opposite to AD.

    entropy, order: which entropy, see `hies.scoring.entropy_kinds.Entropy`.
    """

    name: ClassVar[str] = "ae"

    entropy: str = "shannon"
    order: float | None = None

    def __post_init__(self) -> None:
        Entropy(self.entropy, self.order)

    @property
    def need(self) -> frozenset[str]:
        """The entropy asked for."""
        return frozenset({Entropy(self.entropy, self.order).need})

    def score(self, statistics: Statistics) -> SiteTensors:
        """The entropy term of HIES (section 4.1), in [0, 1]."""
        spread = statistics.spread(Entropy(self.entropy, self.order))
        return {site: equations.attention_deficit(ae) for site, ae in spread.items()}
