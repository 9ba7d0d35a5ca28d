"""AD: the paper's baseline named after the attention deficit (equation 5)."""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.ae import AE
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class AD(AE):
    """Score = -AD_h: the heads of SMALLEST entropy, those of the largest deficit, go first. Opposite to AE."""

    name: ClassVar[str] = "ad"

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns the negative attention deficit, in [-1, 0]."""
        return {site: -deficit for site, deficit in super().score(statistics).items()}
