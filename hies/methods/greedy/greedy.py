"""Greedy: what removal of one head at a time can reach on the calibration loss, at the price of a search."""

from dataclasses import dataclass
from typing import ClassVar

from hies.heads.sites import SiteTensors
from hies.methods.base import Criterion
from hies.scoring.statistics import Statistics


@dataclass(frozen=True)
class Greedy(Criterion):
    """Score = place in the order of the search: each time the head goes without which the loss is lowest.

    The number of passes grows with the square of the number of heads, so this is a bound for small models.
    """

    name: ClassVar[str] = "greedy"
    needs: ClassVar[frozenset[str]] = frozenset({"greedy"})

    def score(self, statistics: Statistics) -> SiteTensors:
        """0 for the first to go, 1 for the next, up to the number of heads minus 1."""
        return statistics.examples_of("greedy")
