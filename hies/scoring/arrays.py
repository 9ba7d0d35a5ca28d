"""Statistics as named arrays, for files, and back."""

import numpy as np
import torch

from hies.heads.sites import join, split
from hies.scoring.statistics import Statistics

KINDS = ("gradient", "entropy", "weight_norm")  # of Statistics, in the order of its fields
OTHER = "other/"


def to_arrays(statistics: Statistics) -> dict[str, np.ndarray]:
    """As numpy can write them: what is kept per head is joined over the sites."""
    arrays = {
        "sites": np.array(list(statistics.heads)),
        "heads": np.array(list(statistics.heads.values())),
        "examples": np.array(statistics.examples),
        "seconds": np.array(statistics.seconds),
    }
    kinds = {kind: getattr(statistics, kind) for kind in KINDS}
    kinds |= {OTHER + name: tensors for name, tensors in statistics.others.items()}
    return arrays | {kind: join(tensors).numpy() for kind, tensors in kinds.items() if tensors}


def from_arrays(arrays: dict[str, np.ndarray]) -> Statistics:
    """The inverse of `to_arrays`."""
    heads = {str(site): int(count) for site, count in zip(arrays["sites"], arrays["heads"], strict=True)}
    like = {site: torch.empty(count) for site, count in heads.items()}
    found = {kind: split(torch.from_numpy(array), like) for kind, array in arrays.items() if _is_statistic(kind)}
    others = {kind.removeprefix(OTHER): tensors for kind, tensors in found.items() if kind.startswith(OTHER)}
    gradient, entropy, weight_norm = (found.get(kind, {}) for kind in KINDS)
    seconds = float(arrays["seconds"])
    return Statistics(heads, int(arrays["examples"]), gradient, entropy, weight_norm, others, seconds)


def _is_statistic(name: str) -> bool:
    return name in KINDS or name.startswith(OTHER)
