"""HIES, section 4.1: importance and entropy together."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from hies import equations
from hies.alpha import GRID, PROTOCOLS
from hies.criteria.base import Criterion
from hies.criteria.normalization import NORMALIZATIONS, normalize
from hies.errors import HiesError
from hies.sites import SiteTensors
from hies.statistics import Statistics


@dataclass(frozen=True)
class HIES(Criterion):
    """Score = alpha * HIS^ + (1 - alpha) * (1 - AE^).

    alpha: weight of the importance, in [0, 1), or the name of a protocol by which a job chooses it among `alphas`
    (`hies.alpha.PROTOCOLS`), looking at `tuning_seeds` calibration draws and at most `tuning_examples` examples of the
    deciding split. normalize: what ^ stands for, `global` (the paper's), `layer`, `rank`.
    """

    name: ClassVar[str] = "hies"
    need: ClassVar[frozenset[str]] = frozenset({"his", "ae"})

    alpha: float | int | str = 0.9
    normalize: str = "global"
    alphas: tuple[float, ...] = GRID
    tuning_seeds: int = 3
    tuning_examples: int | None = None

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

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs in use: how alpha is chosen counts only where it is chosen."""
        if isinstance(self.alpha, str):
            split, _ = PROTOCOLS[self.alpha]
            idle = () if split else ("tuning_seeds", "tuning_examples")  # the calibration loss knows neither
            return {name: value for name, value in asdict(self).items() if name not in idle}
        return {"alpha": float(self.alpha), "normalize": self.normalize}

    def at(self, alpha: float) -> "HIES":
        """The same criterion with this alpha."""
        return replace(self, alpha=alpha)

    def score(self, statistics: Statistics) -> SiteTensors:
        """HIES_h in [0, 1]."""
        if isinstance(self.alpha, str):
            raise HiesError(f"alpha is {self.alpha!r}, which a job chooses; to score heads give a number: HIES(0.9).")
        importance = normalize(statistics.his, self.normalize)
        entropy = normalize(statistics.ae, self.normalize)
        return {site: equations.combine(importance[site], entropy[site], self.alpha) for site in importance}
