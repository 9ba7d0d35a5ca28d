"""HIES, section 4.1: importance and entropy together."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from hies import equations
from hies.errors import HiesError
from hies.heads.sites import SiteTensors
from hies.methods.alpha import GRID, PROTOCOLS
from hies.methods.base import Criterion, used
from hies.methods.importance import check_kind, check_reduction, importance, statistic_of
from hies.methods.normalization import NORMALIZATIONS, normalize
from hies.scoring.entropy_kinds import Entropy
from hies.scoring.statistics import Statistics

COMBINATIONS = {
    "sum": equations.combine,
    "product": equations.combine_as_product,
    "printed": equations.combine_as_printed,
}


@dataclass(frozen=True)
class HIES(Criterion):
    """Score = alpha * HIS^ + (1 - alpha) * (1 - AE^).

    alpha: weight of the importance, in [0, 1), or the name of a protocol by which a job chooses it among `alphas`
    (`hies.methods.alpha.PROTOCOLS`), looking at `tuning_seeds` calibration draws and at most `tuning_examples` examples
    of the deciding split. normalize: what ^ stands for, `global` (the paper), `layer`, `rank`. combination: `sum` (the
    paper's), `product` (a geometric mean), `printed` (what appendix D.8 prints, AE^ in the place of 1 - AE^).
    reduction, reduction_batch: of HIS, see `HIS`. entropy, order: see `hies.scoring.entropy_kinds.Entropy`. importance:
    what stands for HIS, `his` (the paper's) or `output_norm` (appendix D.9, see `OutputNorm`), which has no reductions.
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

    def __post_init__(self) -> None:
        words = f"at least 0 and below 1 (for HIS alone: criterion=his), or one of {', '.join(PROTOCOLS)}"
        if self.alpha not in PROTOCOLS if isinstance(self.alpha, str) else not 0 <= self.alpha < 1:
            raise HiesError(f"criterion.alpha is {self.alpha}; it must be {words}.")
        if not self.alphas or len(set(self.alphas)) < len(self.alphas) or not all(0 <= a < 1 for a in self.alphas):
            raise HiesError(f"criterion.alphas is {list(self.alphas)}; it takes different numbers from 0 to below 1.")
        if self.tuning_seeds < 1 or (self.tuning_examples is not None and self.tuning_examples < 1):
            raise HiesError(
                f"criterion.tuning_seeds is {self.tuning_seeds} and criterion.tuning_examples {self.tuning_examples}; "
                "they must be at least 1 (tuning_examples may be null, for all)."
            )
        if self.normalize not in NORMALIZATIONS:
            raise HiesError(f"criterion.normalize is {self.normalize!r}; use {', '.join(NORMALIZATIONS)}.")
        if self.combination not in COMBINATIONS:
            raise HiesError(f"criterion.combination is {self.combination!r}; use {', '.join(COMBINATIONS)}.")
        check_reduction(self.reduction, self.reduction_batch)
        check_kind(self.importance, self.reduction)
        Entropy(self.entropy, self.order)

    @property
    def need(self) -> frozenset[str]:
        """The importance and the entropy asked for."""
        return frozenset({statistic_of(self.reduction, self.importance), Entropy(self.entropy, self.order).need})

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs in use: how alpha is chosen counts only where it is chosen."""
        idle: set[str] = set()
        if not isinstance(self.alpha, str):
            idle = {"alphas", "tuning_seeds", "tuning_examples"}
        elif PROTOCOLS[self.alpha][0] is None:  # the calibration loss knows neither seeds nor examples
            idle = {"tuning_seeds", "tuning_examples"}
        knobs = {name: value for name, value in asdict(self).items() if name not in idle}
        return used({**knobs, "alpha": self.alpha if isinstance(self.alpha, str) else float(self.alpha)})

    def at(self, alpha: float) -> "HIES":
        """The same criterion with this alpha."""
        return replace(self, alpha=alpha)

    def score(self, statistics: Statistics) -> SiteTensors:
        """HIES_h in [0, 1]."""
        if isinstance(self.alpha, str):
            raise HiesError(f"alpha is {self.alpha!r}, which a job chooses; to score heads give a number: HIES(0.9).")
        importances = importance(statistics, self.reduction, self.reduction_batch, self.importance)
        felt = normalize(importances, self.normalize)
        spread = normalize(statistics.spread(Entropy(self.entropy, self.order)), self.normalize)
        combine = COMBINATIONS[self.combination]
        return {site: combine(felt[site], spread[site], self.alpha) for site in felt}
