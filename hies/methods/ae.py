"""AE: entropy alone, the ablation of HIES at alpha = 0."""

from dataclasses import dataclass
from typing import ClassVar

import hies
from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.entropy_kinds import Entropy
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class AE(ScoringMethod):
    """Score = 1 - AE_h: the heads of LARGEST entropy, which spread their attention, go first. Opposite to AD.

    Attributes:
        entropy: kind of entropy, see `hies.scoring.entropy_kinds.Entropy`.
        order: of that kind.
    """

    name: ClassVar[str] = "ae"

    entropy: str = "shannon"
    order: float | None = None

    def __post_init__(self) -> None:
        Entropy(self.entropy, self.order)

    @property
    def need(self) -> frozenset[str]:
        """The statistic of this entropy."""
        return frozenset({Entropy(self.entropy, self.order).need})

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns the entropy term of HIES (section 4.1), in [0, 1]."""
        entropies = statistics.mean_entropy(Entropy(self.entropy, self.order))
        return {site: hies.equations.attention_deficit(ae) for site, ae in entropies.items()}
