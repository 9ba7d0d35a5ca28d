"""Methods, one small file each; a new one is a file and a line here.

A `ScoringMethod` scores heads; another `Method` prunes in a way that yields no score per head.
"""

from hies.methods.ad import AD
from hies.methods.ae import AE
from hies.methods.base import Calibration, Method, ScoringMethod
from hies.methods.fisher import Fisher
from hies.methods.flap.flap import FLAP
from hies.methods.greedy.greedy import Greedy
from hies.methods.hies import HIES
from hies.methods.his import HIS
from hies.methods.l2 import L2
from hies.methods.llm_pruner.block import LLMPrunerBlock
from hies.methods.llm_pruner.channel import LLMPrunerChannel
from hies.methods.output_norm import OutputNorm
from hies.methods.random import Random
from hies.methods.slicegpt.slicegpt import SliceGPT

_CLASSES = (
    *(Random, L2, HIS, AE, AD, HIES, LLMPrunerBlock, OutputNorm, Fisher, FLAP, Greedy),
    *(LLMPrunerChannel, SliceGPT),
)
METHODS: dict[str, type[Method]] = {method.name: method for method in _CLASSES}

__all__ = [
    "AD", "AE", "FLAP", "HIES", "HIS", "L2", "METHODS", "Calibration", "Fisher", "Greedy", "LLMPrunerBlock",
    "LLMPrunerChannel", "Method", "OutputNorm", "Random", "ScoringMethod", "SliceGPT",
]  # fmt: skip
