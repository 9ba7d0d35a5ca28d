"""Random: the baseline that knows nothing."""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class Random(ScoringMethod):
    """Uniform scores from a seeded generator.

    Attributes:
        seed: another one draws another ranking (in a job: the job's seed).
    """

    name: ClassVar[str] = "random"

    seed: int = 0

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns uniform numbers in [0, 1)."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        return {
            site: torch.rand(heads, generator=generator, dtype=torch.float64)
            for site, heads in statistics.heads.items()
        }
