"""LLM-Pruner, block-wise (Ma et al. 2023, arXiv 2305.11627), on the attention alone: whole heads go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import hies
from hies.errors import HiesError, ParameterError, check_choice
from hies.heads.sites import Removed, Site, SiteTensors
from hies.methods.base import Method, ScoringMethod
from hies.pruning.selection import Groups, Score, Selection, group_sizes
from hies.scoring.statistics import METHOD_STATISTICS, MethodStatistic, Statistics

TAYLOR_KINDS = ("vectorised", "first", "second", "mixed")  # of `salience.taylor_salience`
GROUP_REDUCTIONS = ("sum", "mean", "max", "product")  # of `salience.group_salience`
MATRICES = ("query", "key", "value", "output")
KEY_HEAD_OF = "taylor/groups"  # the statistic that says which key/value head each query head has


def check_saliences(taylor: str, reduction: str) -> None:
    """Raises ParameterError where a knob of LLM-Pruner is not one of its values."""
    check_choice("taylor", taylor, TAYLOR_KINDS)
    check_choice("reduction", reduction, GROUP_REDUCTIONS)


@dataclass(frozen=True)
class LLMPrunerBlock(ScoringMethod):
    """Score = Taylor salience of a head's rows of the query, key and value and its columns of the output matrix.

    Attributes:
        taylor: `vectorised`, `first` (the published code's default), `second` or `mixed`, see
            `salience.taylor_salience`.
        reduction: of the four matrices, `sum`, `mean`, `max` or `product`.
        local: every layer that is pruned loses the same share (the published default); else all of their heads are
            ranked together.
        keep_first: the first N layers (sites, in order) stay whole; None: the HIES paper's 3, and in models of fewer
            than 12 layers a quarter of them, at least 1.
        keep_last: the last N layers stay whole.
    """

    name: ClassVar[str] = "llm_pruner_block"
    needs: ClassVar[frozenset[str]] = frozenset({"taylor"})

    taylor: str = "first"
    reduction: str = "sum"
    local: bool = True
    keep_first: int | None = None
    keep_last: int = 1

    def __post_init__(self) -> None:
        check_saliences(self.taylor, self.reduction)
        for name in ("keep_first", "keep_last"):
            value = getattr(self, name)
            by_depth = value is None and name == "keep_first"
            if not by_depth and not (isinstance(value, int) and value >= 0):
                raise ParameterError(name, value, "it must be 0 or more whole layers")

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns the salience of each head's key/value group, non-negative."""
        from hies.methods.llm_pruner.salience import group_salience

        parts = [statistics[f"taylor/{matrix}/{self.taylor}"] for matrix in MATRICES]
        key_heads = statistics[KEY_HEAD_OF]
        scores: SiteTensors = {}
        for site, index in key_heads.items():
            groups, count = index.long(), int(index.max()) + 1
            sums = [part[site].new_zeros(count).index_add(0, groups, part[site]) for part in parts]  # [groups] each
            scores[site] = group_salience(sums, self.reduction)[groups]  # [heads]
        return scores

    def check_selection(self, selection: Selection) -> None:
        """Refuses every rule but the defaults, see `Method.check_selection`."""
        Method.check_selection(self, selection)

    def masks(
        self, score: Score, ratios: Sequence[float], selection: Selection, sites: Mapping[str, Site]
    ) -> dict[float, Removed]:
        """Returns the heads that are removed, in whole key/value groups, at each ratio that can be."""
        scores, groups, ascending = score({}), group_sizes(sites), sorted(ratios)
        heads = {site: len(values) for site, values in scores.items()}
        removable, total = round(self.most(heads) * sum(heads.values())), sum(heads.values())
        possible = [ratio for ratio in ascending if hies.equations.removal_count(ratio, total) <= removable]
        return {ratio: self.select(scores, ratio, groups) for ratio in possible or ascending[:1]}

    def select(self, scores: SiteTensors, ratio: float, groups: Groups) -> Removed:
        """Returns round(ratio * heads) heads of the model, all from layers that do not stay whole.

        Heads of one group have one score, so without `groups` they go one after the other.

        Args:
            scores: {site: [heads]}.
            ratio: share of the model's heads that is removed.
            groups: as in `hies.select`.

        Raises:
            HiesError: the layers that do not stay whole have too few heads, or there is no such layer.
        """
        heads = {site: len(values) for site, values in scores.items()}
        sites, total = self._prunable(heads), sum(heads.values())
        removable, count = sum(heads[site] for site in sites), hies.equations.removal_count(ratio, total)
        if count > removable:
            most = f"{self.name} can remove at most {removable} of this model"
            remedy = "give a smaller ratio, or keep fewer layers (keep_first, keep_last)"
            raise ParameterError("ratio", ratio, f"it removes {count} of {total} heads, but {most}; {remedy}")
        rules = Selection("layer" if self.local else "global")
        prunable_groups = {site: size for site, size in groups.items() if site in sites}
        return rules.select({site: scores[site] for site in sites}, count / removable, prunable_groups)

    def most(self, heads: Mapping[str, int]) -> float:
        """Returns the share of the heads that lie in layers that do not stay whole."""
        return sum(heads[site] for site in self._prunable(heads)) / sum(heads.values())

    def _prunable(self, heads: Mapping[str, int]) -> list[str]:
        """Returns the sites that do not stay whole, or raises HiesError where there is none."""
        first = min(3, max(len(heads) // 4, 1)) if self.keep_first is None else self.keep_first
        sites = list(heads)[first : max(len(heads) - self.keep_last, 0)]
        if not sites:
            raise HiesError(
                f"{self.name} keeps the first {first} and the last {self.keep_last} layers whole, but the model has "
                f"{len(heads)}; set keep_first and keep_last so that a layer is left to prune."
            )
        return sites


METHOD_STATISTICS["taylor"] = MethodStatistic("hies.methods.llm_pruner.taylor:head_saliences")
