"""HIS, equations 1 and 2: how much the loss of an example changes with a head's gate."""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.methods.importance import check_importance, importance, statistic_of
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class HIS(ScoringMethod):
    """Score = HIS_h: the heads whose gates change the loss least go first.

    Attributes:
        reduction: what the absolute value is taken of, `example` (the paper), `batch`, `batch_l2` or `token`, see
            `hies.methods.importance`.
        reduction_batch: examples of a batch, for `batch` and `batch_l2`.
    """

    name: ClassVar[str] = "his"

    reduction: str = "example"
    reduction_batch: int = 32

    def __post_init__(self) -> None:
        check_importance(self.reduction, self.reduction_batch)

    @property
    def need(self) -> frozenset[str]:
        """The gradients of this reduction."""
        return frozenset({statistic_of(self.reduction)})

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns E_x | dL(x)/dm_h |, in the units of the loss."""
        return importance(statistics, self.reduction, self.reduction_batch)
