"""Greedy: what removal of one head at a time can reach on the calibration loss, at the price of a search."""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.base import ScoringMethod
from hies.scoring.statistics import METHOD_STATISTICS, MethodStatistic, Statistics


@dataclass(frozen=True)
class Greedy(ScoringMethod):
    """Score = place in the order of the search: each time the head goes without which the loss is lowest.

    The number of passes grows with the square of the number of heads, so this is a bound for small models.
    """

    name: ClassVar[str] = "greedy"
    needs: ClassVar[frozenset[str]] = frozenset({"greedy"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns 0 for the first to go, 1 for the next, up to the number of heads minus 1."""
        return statistics["greedy"]


def greedy_passes(heads: int) -> int:
    """Returns how many passes over the calibration set a search among so many heads takes."""
    return heads * (heads + 1) // 2 - 1


METHOD_STATISTICS["greedy"] = MethodStatistic("hies.methods.greedy.search:removal_order", greedy_passes)
