"""HIS, equations 1 and 2: how much the loss of an example changes with a head's gate, and its other definitions."""

from dataclasses import dataclass
from typing import ClassVar

import hies
from hies.errors import ParameterError, check_choice
from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.statistics import Statistics

REDUCTIONS = ("example", "batch", "batch_l2", "token")
IMPORTANCES = ("his", "output_norm")


@dataclass(frozen=True)
class HIS(ScoringMethod):
    """Score = HIS_h: the heads whose gates change the loss least go first.

    Attributes:
        reduction: what the absolute value is taken of, `example` (the paper), `batch`, `batch_l2` or `token`, see
            `importance`.
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


def check_importance(reduction: str, batch: int, kind: str = "his") -> None:
    """Raises ParameterError for knobs of `importance` that it cannot take, by the names that methods give them."""
    check_choice("reduction", reduction, REDUCTIONS)
    if batch < 1:
        raise ParameterError("reduction_batch", batch, "it must be at least 1")
    check_choice("importance", kind, IMPORTANCES)
    if kind != "his" and reduction != "example":
        expected = f"with importance={kind}, which is no gradient, leave it at 'example'"
        raise ParameterError("reduction", reduction, expected)


def statistic_of(reduction: str, kind: str = "his") -> str:
    """Returns the name of the statistic that an importance and a reduction start from."""
    if kind != "his":
        return kind
    return "his_token" if reduction == "token" else "his"


def importance(statistics: Statistics, reduction: str, batch: int, kind: str = "his") -> SiteTensors:
    """Returns HIS by one of its definitions, or what stands in its place (appendix D.9), {site: [heads]}.

    Args:
        statistics: with that of `statistic_of`.
        reduction: `example`, the absolute gradient of every example (equation 1); `batch`, of every batch, the widely
            used code; `batch_l2`, the same over its norm within the layer; `token`, of every token (Michel et al.).
        batch: examples of a batch.
        kind: `his`, or `output_norm`, which has no reductions.
    """
    examples = statistics[statistic_of(reduction, kind)]
    if kind == "output_norm":
        return {site: hies.equations.mean_over_examples(values) for site, values in examples.items()}
    if reduction in ("example", "token"):
        mean = hies.equations.head_importance if reduction == "example" else hies.equations.token_head_importance
        return {site: mean(values) for site, values in examples.items()}
    by_site = {site: hies.equations.batched_head_importance(values, batch) for site, values in examples.items()}
    return {site: hies.equations.layer_l2(v) for site, v in by_site.items()} if reduction == "batch_l2" else by_site
