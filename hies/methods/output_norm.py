"""Output norm: the baseline of the paper's appendix D.9 and figure 13, which needs neither labels nor gradients."""

from dataclasses import dataclass
from typing import ClassVar

import hies
from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class OutputNorm(ScoringMethod):
    """Score = mean norm of what the head adds before the output projection: heads of small outputs go first."""

    name: ClassVar[str] = "output_norm"
    needs: ClassVar[frozenset[str]] = frozenset({"output_norm"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns the Euclidean norm, in the units of the values."""
        return {site: hies.equations.mean_over_examples(values) for site, values in statistics["output_norm"].items()}
