"""Statistics as named arrays, for files, and back."""

import numpy as np
import torch

from hies.heads.sites import join, split
from hies.scoring.statistics import Statistics

# What three statistics are called in files; the name of any other follows a prefix.
IN_FILES = {"his": "gradient", "ae": "entropy", "l2": "weight_norm"}
PREFIX_IN_FILES = "other/"


def to_arrays(statistics: Statistics) -> dict[str, np.ndarray]:
    """Returns arrays as numpy can write them: each statistic is joined over the sites, [..., heads of the model]."""
    arrays = {
        "sites": np.array(list(statistics.heads)),
        "heads": np.array(list(statistics.heads.values())),
        "examples": np.array(statistics.examples),
        "seconds": np.array(statistics.seconds),
    }
    return arrays | {
        IN_FILES.get(name, PREFIX_IN_FILES + name): join(tensors).numpy()
        for name, tensors in statistics.tensors.items()
        if tensors
    }


def from_arrays(arrays: dict[str, np.ndarray]) -> Statistics:
    """Returns the statistics of `to_arrays`."""
    heads = {str(site): int(count) for site, count in zip(arrays["sites"], arrays["heads"], strict=True)}
    by_file_name = {file_name: name for name, file_name in IN_FILES.items()}
    tensors = {
        by_file_name.get(name, name.removeprefix(PREFIX_IN_FILES)): split(torch.from_numpy(array), heads)
        for name, array in arrays.items()
        if name in by_file_name or name.startswith(PREFIX_IN_FILES)
    }
    return Statistics(heads, int(arrays["examples"]), tensors, float(arrays["seconds"]))
