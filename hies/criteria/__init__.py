"""Criteria, one small file each; a new one is a file and a line here.

A `Criterion` scores heads; a `Method` prunes in a way that yields no score per head.
"""

from hies.criteria.ad import AD
from hies.criteria.ae import AE
from hies.criteria.base import Criterion
from hies.criteria.fisher import Fisher
from hies.criteria.greedy import Greedy
from hies.criteria.hies import HIES
from hies.criteria.his import HIS
from hies.criteria.l2 import L2
from hies.criteria.llm_pruner_block import LLMPrunerBlock
from hies.criteria.llm_pruner_channel import LLMPrunerChannel
from hies.criteria.method import Calibration, Method
from hies.criteria.output_norm import OutputNorm
from hies.criteria.random import Random
from hies.criteria.slicegpt import SliceGPT

KINDS: tuple[type[Criterion], ...] = (Random, L2, HIS, AE, AD, HIES, LLMPrunerBlock, OutputNorm, Fisher, Greedy)
CRITERIA: dict[str, type[Criterion]] = {kind.name: kind for kind in KINDS}
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (LLMPrunerChannel, SliceGPT)}

__all__ = [
    "AD",
    "AE",
    "CRITERIA",
    "HIES",
    "HIS",
    "L2",
    "METHODS",
    "Calibration",
    "Criterion",
    "Fisher",
    "Greedy",
    "LLMPrunerBlock",
    "LLMPrunerChannel",
    "Method",
    "OutputNorm",
    "Random",
    "SliceGPT",
]
