"""HIES, section 4.1: importance and entropy together."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, ClassVar

import hies
from hies.errors import HiesError, ParameterError, check_choice
from hies.heads.sites import SiteTensors, join, split
from hies.methods.alpha import GRID, PROTOCOLS, SHRINK, AlphaSearch
from hies.methods.base import ScoringMethod, nothing, used
from hies.methods.his import check_importance, importance, statistic_of
from hies.methods.planning import Draw, MaskedHeads, ModelOnTask, Plan, Tick
from hies.pruning.selection import Selection
from hies.scoring.entropy_kinds import Entropy
from hies.scoring.statistics import Statistics

NORMALIZATIONS = ("global", "layer", "rank", "layer_entropy")
COMBINATIONS = ("sum", "product", "printed")  # of `hies.equations.combine`
PLACEBOS = ("none", "permuted", "random")  # of `hies.equations.placebo_entropy`


@dataclass(frozen=True)
class HIES(ScoringMethod):
    """Score = alpha * HIS^ + (1 - alpha) * (1 - AE^).

    Attributes:
        alpha: weight of the importance, in [0, 1); or `shrink`, n / (n + k) for n calibration examples; or the name of
            a protocol by which a job chooses it among `alphas`, see `hies.methods.alpha.PROTOCOLS`.
        normalize: what ^ stands for, `global` (the paper), `layer`, `rank`, or `layer_entropy` (HIS over the
            model, AE within its layer), see `normalize`.
        alphas: the numbers that a protocol chooses among.
        tuning_seeds: calibration draws that a protocol looks at.
        tuning_examples: examples of the deciding split that it looks at, at most; None: all.
        combination: `sum` (the paper's), `product` (a geometric mean), `printed` (what appendix D.8 prints, AE^ in the
            place of 1 - AE^).
        reduction: of HIS, see `HIS`.
        reduction_batch: of HIS, see `HIS`.
        entropy: kind of entropy, see `hies.scoring.entropy_kinds.Entropy`.
        order: of that kind.
        importance: what stands for HIS, `his` (the paper's) or `output_norm` (appendix D.9, see `OutputNorm`), which
            has no reductions.
        prior_examples: k of `shrink`: how many calibration examples the entropy term counts for.
        placebo: what stands in the place of AE, to compare with: `none` (AE itself), `permuted` (AE of other heads) or
            `random` (uniform numbers).
        seed: of the placebo (in a job: the job's seed).
    """

    name: ClassVar[str] = "hies"

    alpha: float | int | str = 0.9
    normalize: str = "global"
    alphas: tuple[float, ...] = GRID
    tuning_seeds: int = 3
    tuning_examples: int | None = None
    combination: str = "sum"
    reduction: str = "example"
    reduction_batch: int = 32
    entropy: str = "shannon"
    order: float | None = None
    importance: str = "his"
    prior_examples: float = 1.0
    placebo: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        is_weight = isinstance(self.alpha, Real) and 0 <= self.alpha < 1
        if not is_weight and self.alpha not in (*PROTOCOLS, SHRINK):
            protocols = ", ".join((*PROTOCOLS, SHRINK))
            expected = f"it must be at least 0 and below 1 (HIS alone is a method of its name), or one of {protocols}"
            raise ParameterError("alpha", self.alpha, expected)
        if not self.alphas or len(set(self.alphas)) < len(self.alphas) or not all(0 <= a < 1 for a in self.alphas):
            raise ParameterError("alphas", list(self.alphas), "it takes different numbers from 0 to below 1")
        if self.tuning_seeds < 1:
            raise ParameterError("tuning_seeds", self.tuning_seeds, "it must be at least 1")
        if self.tuning_examples is not None and self.tuning_examples < 1:
            raise ParameterError("tuning_examples", self.tuning_examples, "it must be at least 1, or null for all")
        if not 0 < self.prior_examples < math.inf:
            raise ParameterError("prior_examples", self.prior_examples, "it must be positive and finite")
        check_choice("placebo", self.placebo, PLACEBOS)
        check_choice("normalize", self.normalize, NORMALIZATIONS)
        check_choice("combination", self.combination, COMBINATIONS)
        check_importance(self.reduction, self.reduction_batch, self.importance)
        Entropy(self.entropy, self.order)

    @property
    def need(self) -> frozenset[str]:
        """The statistics of its importance and its entropy."""
        return frozenset({statistic_of(self.reduction, self.importance), Entropy(self.entropy, self.order).need})

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs in use: how alpha is chosen counts only where it is chosen, a seed only where chance is."""
        idle: set[str] = {"seed"} if self.placebo == "none" else set()
        idle |= set() if self.alpha == SHRINK else {"prior_examples"}
        if self.alpha not in PROTOCOLS:
            idle |= {"alphas", "tuning_seeds", "tuning_examples"}
        elif PROTOCOLS[self.alpha][0] is None:  # the calibration loss knows neither seeds nor examples
            idle |= {"tuning_seeds", "tuning_examples"}
        knobs = {name: value for name, value in asdict(self).items() if name not in idle}
        return used({**knobs, "alpha": self.alpha if isinstance(self.alpha, str) else float(self.alpha)})

    def at(self, alpha: float) -> "HIES":
        """Returns the same method with this alpha."""
        return replace(self, alpha=alpha)

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns HIES_h in [0, 1]."""
        if self.alpha == SHRINK:
            return self.at(hies.equations.shrunk_alpha(statistics.examples, self.prior_examples)).score(statistics)
        if isinstance(self.alpha, str):
            raise HiesError(f"alpha is {self.alpha!r}, which a job chooses; to score heads give a number: HIES(0.9).")
        importances = importance(statistics, self.reduction, self.reduction_batch, self.importance)
        entropies = statistics.mean_entropy(Entropy(self.entropy, self.order))
        if self.placebo != "none":
            values = hies.equations.placebo_entropy(join(entropies), self.placebo, self.seed)
            entropies = split(values, statistics.heads)
        scales = ("global", "layer") if self.normalize == "layer_entropy" else (self.normalize,) * 2
        importances, entropies = map(normalize, (importances, entropies), scales)
        combine = partial(hies.equations.combine, alpha=self.alpha, combination=self.combination)
        return {site: combine(importances[site], entropies[site]) for site in entropies}

    def steps(self, ratios: Sequence[float]) -> int:
        """Returns how many masks are looked at to choose alpha."""
        return AlphaSearch.steps(self, ratios) if self.alpha in PROTOCOLS else 0

    def plan(
        self, evaluator: ModelOnTask, draw: Draw, selection: Selection, ratios: Sequence[float], tick: Tick = nothing
    ) -> Plan:
        """Returns the masks of the ratios, each at its alpha; see `Method.plan`.

        The arrays hold the scores at the alpha of the ratio nearest to 1/2.
        """
        if self.alpha == SHRINK:
            alphas = dict.fromkeys(ratios, hies.equations.shrunk_alpha(draw.size, self.prior_examples))
        elif isinstance(self.alpha, str):
            alphas = AlphaSearch(self, evaluator, draw, selection, ratios, tick).chosen()
        else:
            alphas = dict.fromkeys(ratios, float(self.alpha))
        plans = {
            alpha: super(HIES, self.at(alpha)).plan(evaluator, draw, selection, ratios)
            for alpha in sorted({*alphas.values()})
        }
        removed = {ratio: plans[alphas[ratio]].models[ratio] for ratio in sorted({*ratios} - {0.0})}
        return replace(
            plans[alphas[min(alphas, key=lambda ratio: abs(ratio - 0.5))]],
            models={0.0: MaskedHeads(), **removed},
            notes={0.0: {"alpha_used": None}, **{ratio: {"alpha_used": alphas[ratio]} for ratio in removed}},
        )


def normalize(values: SiteTensors, how: str) -> SiteTensors:
    """Returns scores in [0, 1], {site: [heads]}, so that two kinds of score can be added.

    Args:
        values: {site: [heads]}.
        how: `global`, min-max over all heads of the model (section 4.1); `layer`, min-max within each site; `rank`, the
            share of the other heads that score lower, equal scores counted half.
    """
    if how == "layer":
        return {site: hies.equations.min_max(tensor) for site, tensor in values.items()}
    joined, heads = join(values), {site: len(tensor) for site, tensor in values.items()}
    if how == "global":
        return split(hies.equations.min_max(joined), heads)
    lower = (joined[None, :] < joined[:, None]).sum(dim=1)
    equal = (joined[None, :] == joined[:, None]).sum(dim=1) - 1
    ranks = (lower.double() + equal / 2) / max(len(joined) - 1, 1)
    return split(ranks.masked_fill(joined.isnan(), float("nan")), heads)
