"""LLM-Pruner, block-wise (Ma et al. 2023, arXiv 2305.11627), on the attention alone: whole heads go."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hies import equations
from hies.errors import HiesError
from hies.heads.sites import Removed, SiteTensors
from hies.methods.base import Criterion
from hies.methods.llm_pruner.taylor import GROUPS, MATRICES
from hies.pruning.selection import Groups, Selection
from hies.scoring.statistics import Statistics


def check_saliences(taylor: str, reduction: str) -> None:
    """Raise HiesError where a knob of LLM-Pruner is not one of its values."""
    for name, value, known in (("taylor", taylor, equations.TAYLOR), ("reduction", reduction, equations.REDUCTIONS)):
        if value not in known:
            raise HiesError(f"criterion.{name} is {value!r}; use {', '.join(known)}.")


@dataclass(frozen=True)
class LLMPrunerBlock(Criterion):
    """Score = Taylor salience of a head's rows of the query, key and value and its columns of the output matrix.

    taylor: `vectorised`, `first` (the published code's default), `second` or `mixed`, see
    `hies.equations.taylor_salience`. reduction: of the four matrices, `sum`, `mean`, `max` or `product`. local: every
    layer that is pruned loses the same share (the published default); else all of their heads are ranked together.
    keep_first, keep_last: so many layers (sites, in order) stay whole; keep_first null: the HIES paper's 3, and in
    models of fewer than 12 layers a quarter of them, at least 1.
    """

    name: ClassVar[str] = "llm_pruner_block"
    needs: ClassVar[frozenset[str]] = frozenset({"taylor"})
    selects: ClassVar[bool] = True

    taylor: str = "first"
    reduction: str = "sum"
    local: bool = True
    keep_first: int | None = None
    keep_last: int = 1

    def __post_init__(self) -> None:
        check_saliences(self.taylor, self.reduction)
        for name in ("keep_first", "keep_last"):
            value = getattr(self, name)
            chosen = value is None and name == "keep_first"
            if not chosen and not (isinstance(value, int) and value >= 0):
                raise HiesError(f"criterion.{name} is {value}; it must be 0 or more whole layers.")

    def score(self, statistics: Statistics) -> SiteTensors:
        """The salience of each head's key/value group, non-negative."""
        parts = [statistics.examples_of(f"taylor/{matrix}/{self.taylor}") for matrix in MATRICES]
        groups = statistics.examples_of(GROUPS)
        return {
            site: self._of_site(torch.stack([part[site] for part in parts]), index.long())
            for site, index in groups.items()
        }

    def _of_site(self, saliences: Tensor, groups: Tensor) -> Tensor:
        """Saliences by matrix and head, [matrices, heads] -> those of the heads' groups [heads]."""
        joint = saliences.new_zeros(len(saliences), int(groups.max()) + 1).index_add(1, groups, saliences)
        return equations.group_salience(joint, self.reduction)[groups]

    def select(self, scores: SiteTensors, ratio: float, groups: Groups) -> Removed:
        """round(ratio * heads) heads of the model, all from layers that are not kept; whole groups where given.

        Heads of one group have one score, so without `groups` they go one after the other.

        Raises:
            HiesError: the layers that are not kept have too few heads, or there is no such layer.
        """
        heads = {site: len(values) for site, values in scores.items()}
        sites, total = self._pruned(heads), sum(heads.values())
        there, count = sum(heads[site] for site in sites), equations.removal_count(ratio, total)
        if count > there:
            raise HiesError(
                f"ratio is {ratio}, {count} of {total} heads, but {self.name} can remove at most {there} "
                "of this model; give a smaller ratio, or keep fewer layers (criterion.keep_first, criterion.keep_last)."
            )
        rules = Selection("layer" if self.local else "global")
        mine = {site: size for site, size in groups.items() if site in sites}
        return rules.select({site: scores[site] for site in sites}, count / there, mine)

    def most(self, heads: Mapping[str, int]) -> float:
        """The share of the heads that lie in layers that are not kept.

        Raises:
            HiesError: there is no such layer.
        """
        return sum(heads[site] for site in self._pruned(heads)) / sum(heads.values())

    def _first(self, layers: int) -> int:
        """How many of the first layers stay whole."""
        if self.keep_first is not None:
            return self.keep_first
        return min(3, max(layers // 4, 1))

    def _pruned(self, heads: Mapping[str, int]) -> list[str]:
        """The sites that are not kept."""
        first = self._first(len(heads))
        sites = list(heads)[first : max(len(heads) - self.keep_last, 0)]
        if not sites:
            raise HiesError(
                f"{self.name} keeps the first {first} and the last {self.keep_last} layers whole, but the model has "
                f"{len(heads)}; set criterion.keep_first and criterion.keep_last so that a layer is left to prune."
            )
        return sites
