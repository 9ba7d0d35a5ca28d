"""FLAP's fluctuation score (An et al. 2024, arXiv 2312.11983): heads whose output hardly varies go first.

What a removed channel adds to the output projection on average could be put into a bias; the fluctuation around that
mean could not. The score is the paper's, for heads; its compensation is left out: no bias is added for removed heads,
so that all scores are compared on the same model. The paper prunes the MLPs as well, and in one ranking with the heads.
"""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.statistics import METHOD_STATISTICS, MethodStatistic, Statistics


@dataclass(frozen=True)
class FLAP(ScoringMethod):
    """Score = variance of the head's output channels over tokens, weighted by the output projection (the paper's WIFV).

    Attributes:
        standardize: compare heads of different layers by how many standard deviations a head lies above its layer's
            mean (the paper's AL-AM); false: by the weighted variance itself.
    """

    name: ClassVar[str] = "flap"
    needs: ClassVar[frozenset[str]] = frozenset({"fluctuation"})

    standardize: bool = True

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns standard deviations from the layer's mean, or squared units of what the head adds to the stream."""
        fluctuation = statistics["fluctuation"]
        if not self.standardize:
            return fluctuation
        from hies.methods.flap.fluctuation import standardized

        return {site: standardized(values) for site, values in fluctuation.items()}


METHOD_STATISTICS["fluctuation"] = MethodStatistic("hies.methods.flap.fluctuation:fluctuations", reads_loss=False)
