"""Random: the baseline that knows nothing."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hies.heads.sites import SiteTensors
from hies.methods.base import Criterion
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform scores from a seeded generator; `seed` draws another ranking (in a job: the job's seed)."""

    name: ClassVar[str] = "random"
    needs: ClassVar[frozenset[str]] = frozenset()

    seed: int = 0

    def score(self, statistics: Statistics) -> SiteTensors:
        """Uniform in [0, 1)."""
        generator = torch.Generator().manual_seed(self.seed)
        return {
            site: torch.rand(heads, generator=generator, dtype=torch.float64)
            for site, heads in statistics.heads.items()
        }
