"""HIS, equations 1 and 2: how much the loss of an example changes with a head's gate."""

from dataclasses import dataclass
from typing import ClassVar

from hies.criteria.base import Criterion
from hies.sites import SiteTensors
from hies.statistics import Statistics


@dataclass(frozen=True)
class HIS(Criterion):
    """Score = HIS_h: the heads that the loss feels least go first."""

    name: ClassVar[str] = "his"
    need: ClassVar[frozenset[str]] = frozenset({"his"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """E_x | dL(x)/dm_h |, in the units of the loss."""
        return statistics.his
