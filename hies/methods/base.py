"""The contract of every criterion: statistics in, one score per head out, higher = keep."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hies.errors import HiesError
from hies.heads.attention import find_sites, masked
from hies.heads.sites import Removed, SiteTensors
from hies.methods.method import Calibration
from hies.pruning.selection import Groups, group_sizes, select
from hies.scoring.statistics import Statistics, collect


@dataclass(frozen=True)
class Criterion(ABC):
    """A rule that scores heads. Subclasses are plain dataclasses whose fields are the criterion's knobs.

    needs names the statistics that `hies.collect` has to find, whatever the knobs. Calling a criterion gives
    {site: [heads]}, float64, HIGHER = KEEP, every score finite.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    selects: ClassVar[bool] = False  # by rules of its own, see `select`, in the place of those of the sparsity group

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

    def select(self, scores: SiteTensors, ratio: float, groups: Groups) -> Removed:
        """The heads that go at a ratio, where the criterion `selects`; groups: see `hies.pruning.selection`."""
        raise NotImplementedError(f"{self.name} leaves the selection to hies.select.")

    def most(self, heads: Mapping[str, int]) -> float:
        """The largest ratio that a model with these heads, {site: number}, can be pruned at."""
        return 1.0

    @contextlib.contextmanager
    def pruned(self, model: PreTrainedModel, calibration: Calibration, ratio: float) -> Iterator[PreTrainedModel]:
        """The model with the heads masked that go at a ratio, as `Method.pruned`."""
        statistics = collect(model, calibration.batches, self.need)
        scores = self(statistics)
        if self.selects:
            removed = self.select(scores, ratio, group_sizes(find_sites(model, calibration.batches[0])))
        else:
            removed = select(scores, ratio)
        with masked(model, removed):
            yield model

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


PAPER: dict[str, Any] = {
    "entropy": "shannon",
    "order": None,
    "importance": "his",
    "reduction": "example",
    "combination": "sum",
}


def used(knobs: dict[str, Any]) -> dict[str, Any]:
    """The knobs without those that say what the paper says, or that say nothing beside the others."""
    idle = {"reduction_batch"} if not str(knobs.get("reduction")).startswith("batch") else set()
    return {name: value for name, value in knobs.items() if name not in idle and not _is_paper(name, value)}


def _is_paper(name: str, value: Any) -> bool:
    return name in PAPER and value == PAPER[name]
