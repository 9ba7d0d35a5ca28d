"""Ends a worker of joblib whose command was killed; left alone, it would keep its memory and its GPU for good."""

import os
import threading
import time
from functools import cache

from omegaconf import DictConfig

from experiments.worker import work

EVERY = 1.0  # seconds between two looks


def work_under(command: int, node: DictConfig) -> str | None:
    """`work`, in a process that ends when the process with the id `command` has ended."""
    if os.getpid() != command:
        end_with(command)
    return work(node)


@cache
def end_with(parent: int) -> None:
    """End this process, whatever it is at, when its parent has ended; locks go with it, files are whole or absent."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os._exit(1)
