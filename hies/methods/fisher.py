"""Fisher: the gates' diagonal Fisher information (Kwon et al. 2022, arXiv 2204.09656), without its mask search."""

from dataclasses import dataclass
from typing import ClassVar

import hies
from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class Fisher(ScoringMethod):
    """Score = mean squared gradient of the head's gate: like HIS, with more weight on examples of large gradients."""

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"his"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns E_x (dL(x)/dm_h)^2, in the squared units of the loss."""
        return {site: hies.equations.fisher_information(values) for site, values in statistics["his"].items()}
