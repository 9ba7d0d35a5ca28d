"""Attention-head pruning with the Head Importance-Entropy Score (HIES, arXiv 2510.13832), for transformers 5.

batches = hies.batches(tokenizer, data)            # of texts, pairs or pictures, labels included
stats = hies.collect(model, batches)               # one pass over labelled calibration batches
scores = hies.HIES(alpha=0.9)(stats)               # {site name: tensor [heads]}, higher = keep
removed = hies.select(scores, ratio=0.5)           # {site name: sorted list of heads}
with hies.masked(model, removed): ...              # the model without those heads; nothing is changed for good
small = hies.prune(model, removed)                 # a smaller model, the given one untouched
print(hies.summary(small))                         # heads of each layer, parameters, FLOPs, cache
hies.evaluate(small, batches, reference=model)     # loss, accuracy, agreement
hies.save_pruned(small, path); small = hies.load_pruned(path)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first asked for
    from hies import equations, methods
    from hies import methods as criteria
    from hies.efficiency.overview import summary
    from hies.errors import HiesError, ParameterError, UnsupportedModelError
    from hies.heads.attention import find_sites
    from hies.heads.masking import masked
    from hies.heads.sites import Site
    from hies.methods import HIES, ScoringMethod
    from hies.pruning.files import load_pruned, save_pruned
    from hies.pruning.prunable_sites import prunable
    from hies.pruning.removal import prune, pruned_heads
    from hies.pruning.selection import select
    from hies.pruning.trainer import PrunedCheckpoints
    from hies.scoring.calibration_pass import collect
    from hies.scoring.entropy import attention_entropy
    from hies.scoring.performance import evaluate
    from hies.scoring.reading import batches
    from hies.scoring.statistics import Statistics

_MODULES = {"criteria": "hies.methods", "equations": "hies.equations", "methods": "hies.methods"}  # criteria: the paper
_NAMES = {
    "hies.efficiency.overview": ("summary",),
    "hies.errors": ("HiesError", "ParameterError", "UnsupportedModelError"),
    "hies.heads.attention": ("find_sites",),
    "hies.heads.masking": ("masked",),
    "hies.heads.sites": ("Site",),
    "hies.methods": ("HIES", "ScoringMethod"),
    "hies.pruning.files": ("load_pruned", "save_pruned"),
    "hies.pruning.prunable_sites": ("prunable",),
    "hies.pruning.removal": ("prune", "pruned_heads"),
    "hies.pruning.selection": ("select",),
    "hies.pruning.trainer": ("PrunedCheckpoints",),
    "hies.scoring.calibration_pass": ("collect",),
    "hies.scoring.entropy": ("attention_entropy",),
    "hies.scoring.performance": ("evaluate",),
    "hies.scoring.reading": ("batches",),
    "hies.scoring.statistics": ("Statistics",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "HIES", "HiesError", "ParameterError", "PrunedCheckpoints", "ScoringMethod", "Site", "Statistics",
    "UnsupportedModelError", "attention_entropy", "batches", "collect", "criteria", "equations", "evaluate",
    "find_sites", "load_pruned", "masked", "methods", "prunable", "prune", "pruned_heads", "save_pruned", "select",
    "summary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports what a public name stands for (PEP 562), so that `import hies` and `hies.runs` need no torch.

    Modules that declare knobs reach what computes in the same way, as in `hies.equations.min_max(...)`.
    """
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'hies' has no attribute {name!r}")
    if name == "collect":  # methods bring statistics that it knows by name
        importlib.import_module("hies.methods")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(__all__)
