"""HIS, equations 1 and 2: how much the loss of an example changes with a head's gate."""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.base import Criterion
from hies.methods.importance import check_reduction, importance, statistic_of
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class HIS(Criterion):
    """Score = HIS_h: the heads that the loss feels least go first.

    reduction: over what the absolute value is taken, see `hies.methods.importance`: `example` (the paper), `batch` or
    `batch_l2` (of `reduction_batch` examples), `token`.
    """

    name: ClassVar[str] = "his"

    reduction: str = "example"
    reduction_batch: int = 32

    def __post_init__(self) -> None:
        check_reduction(self.reduction, self.reduction_batch)

    @property
    def need(self) -> frozenset[str]:
        """The gradients asked for."""
        return frozenset({statistic_of(self.reduction)})

    def score(self, statistics: Statistics) -> SiteTensors:
        """E_x | dL(x)/dm_h |, in the units of the loss."""
        return importance(statistics, self.reduction, self.reduction_batch)
