"""L2: the paper's magnitude baseline, which needs no data."""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class L2(ScoringMethod):
    """Score = norm of the head's query, key and value rows and output columns: small weights go first."""

    name: ClassVar[str] = "l2"
    needs: ClassVar[frozenset[str]] = frozenset({"l2"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns the Euclidean norm, in the units of the weights."""
        return statistics["l2"]
