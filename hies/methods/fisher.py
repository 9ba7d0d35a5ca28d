"""Fisher: the gates' diagonal Fisher information (Kwon et al. 2022, arXiv 2204.09656), without its mask search."""

from dataclasses import dataclass
from typing import ClassVar

from hies import equations
from hies.heads.sites import SiteTensors
from hies.methods.base import Criterion
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class Fisher(Criterion):
    """Score = mean squared gradient of the head's gate: like HIS, with more weight on the examples that feel a head."""

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"his"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """E_x (dL(x)/dm_h)^2, in the squared units of the loss."""
        examples = statistics.examples_of("his")
        return {site: equations.fisher_information(gradients) for site, gradients in examples.items()}
