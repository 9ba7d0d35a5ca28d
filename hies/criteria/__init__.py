"""Criteria that score heads, one small file each; a new one is a file and a line here."""

from hies.criteria.ad import AD
from hies.criteria.ae import AE
from hies.criteria.base import Criterion
from hies.criteria.hies import HIES
from hies.criteria.his import HIS
from hies.criteria.l2 import L2
from hies.criteria.random import Random

CRITERIA: dict[str, type[Criterion]] = {kind.name: kind for kind in (Random, L2, HIS, AE, AD, HIES)}

__all__ = ["AD", "AE", "CRITERIA", "HIES", "HIS", "L2", "Criterion", "Random"]
