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

    need names the statistics that `hies.collect` has to find. Calling a criterion gives {site: [heads]}, float64,
    HIGHER = KEEP, every score finite.
    """

    name: ClassVar[str]
    need: ClassVar[frozenset[str]]

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that the scores depend on, by name."""
        return asdict(self)

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
