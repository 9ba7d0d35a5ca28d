"""The memory that something takes at its fullest moment, measured in a process of its own."""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

KIBI = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
WARM_UP = 64  # tokens of a first run, which loads the kernels

Make = Callable[[str, int], Callable[[], object]]  # (way, tokens) -> what to run, its inputs ready


def extra_bytes(make: Make, way: str, tokens: int) -> int:
    """The resident memory that one run adds to that of its inputs and of a run on few tokens; one thread."""
    context = get_context("forkserver")  # a young process: what this one has freed would hide what the run takes
    context.set_forkserver_preload([make.__module__, "hies"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_run, make, way, tokens).result()


def _run(make: Make, way: str, tokens: int) -> int:
    torch.set_num_threads(1)
    make(way, WARM_UP)()
    run = make(way, tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KIBI
