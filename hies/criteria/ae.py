"""AE: entropy alone, the ablation of HIES at alpha = 0."""

from dataclasses import dataclass
from typing import ClassVar

from hies import equations
from hies.criteria.base import Criterion
from hies.sites import SiteTensors
from hies.statistics import Statistics


@dataclass(frozen=True)
class AE(Criterion):
    """Score = 1 - AE_h: the heads of LARGEST entropy, which spread their attention, go first. Opposite to AD."""

    name: ClassVar[str] = "ae"
    need: ClassVar[frozenset[str]] = frozenset({"ae"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """The entropy term of HIES (section 4.1), in [0, 1]."""
        return {site: equations.attention_deficit(ae) for site, ae in statistics.ae.items()}
