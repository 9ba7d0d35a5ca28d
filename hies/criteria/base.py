"""The contract of every criterion: statistics in, one score per head out, higher = keep."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hies.errors import HiesError
from hies.sites import SiteTensors
from hies.statistics import Statistics


@dataclass(frozen=True)
class Criterion(ABC):
    """A rule that scores heads. Subclasses are plain dataclasses whose fields are the criterion's knobs.

    needs names the statistics that `hies.collect` has to find, whatever the knobs. Calling a criterion gives
    {site: [heads]}, float64, HIGHER = KEEP, every score finite.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def need(self) -> frozenset[str]:
        """The statistics that `hies.collect` has to find for these knobs."""
        return self.needs

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that the scores depend on, by name; variants of the paper's definitions only where used."""
        return used(asdict(self))

    @abstractmethod
    def score(self, statistics: Statistics) -> SiteTensors:
        """Scores per site, higher = keep."""

    def __call__(self, statistics: Statistics) -> SiteTensors:
        """Scores per site, higher = keep.

        Raises:
            HiesError: a score is not finite; the sentence names the head.
        """
        scores = self.score(statistics)
        for site, values in scores.items():
            if not values.isfinite().all():
                head = int((~values.isfinite()).nonzero()[0])
                raise HiesError(
                    f"Criterion {self.name!r} gave {float(values[head])} for head {head} of site {site!r}; a score "
                    "must be finite (an entropy needs calibration examples of at least two tokens)."
                )
        return scores


PAPER: dict[str, Any] = {"entropy": "shannon", "order": None, "reduction": "example", "combination": "sum"}


def used(knobs: dict[str, Any]) -> dict[str, Any]:
    """The knobs without those that say what the paper says, or that say nothing beside the others."""
    idle = {"reduction_batch"} if not str(knobs.get("reduction")).startswith("batch") else set()
    return {name: value for name, value in knobs.items() if name not in idle and not _is_paper(name, value)}


def _is_paper(name: str, value: Any) -> bool:
    return name in PAPER and value == PAPER[name]
