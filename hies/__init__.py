"""Attention-head pruning with the Head Importance-Entropy Score (HIES, arXiv 2510.13832), for transformers 5.

stats = hies.collect(model, batches)               # one pass over labelled calibration batches
scores = hies.criteria.HIES(alpha=0.9)(stats)      # {site name: tensor [heads]}, higher = keep
removed = hies.select(scores, ratio=0.5)           # {site name: sorted list of heads}
with hies.masked(model, removed): ...              # the model without those heads; nothing is changed for good
small = hies.prune(model, removed)                 # a smaller model, the given one untouched
hies.save_pruned(small, path); small = hies.load_pruned(path)
"""

from hies import criteria
from hies.attention import Site, find_sites, masked
from hies.entropy import attention_entropy
from hies.errors import HiesError, UnsupportedModelError
from hies.pruned_files import load_pruned, save_pruned
from hies.pruning import prune, pruned_heads
from hies.selection import select
from hies.statistics import Statistics, collect

__all__ = [
    "HiesError",
    "Site",
    "Statistics",
    "UnsupportedModelError",
    "attention_entropy",
    "collect",
    "criteria",
    "find_sites",
    "load_pruned",
    "masked",
    "prune",
    "pruned_heads",
    "save_pruned",
    "select",
]
