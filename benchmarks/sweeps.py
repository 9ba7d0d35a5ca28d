"""Tiny real sweeps in processes of their own, and what they left behind compared: what the sweep_* benchmarks share."""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from experiments import run
from hies.storage import read_arrays

torch.optim.SGD([torch.zeros(1)])  # imports late what children that are forked then have at once

MODEL = (
    "model=vit_tiny",
    "model.architecture.hidden_size=16",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.num_attention_heads=4",
    "model.architecture.intermediate_size=16",
    "model.finetune.epochs=1",
    "model.finetune.batch_size=250",
    "task=digits",
    "task.max_examples=101",
    "wandb.mode=disabled",
    "results_dir=results",
    "cache_dir=cache",
)
CHANGING = re.compile(r', "(score_seconds|eval_seconds|revision|digest)": ("[^"]*"|[^,}]*)')


def start(folder: Path, words: Sequence[str], prepare: Callable[[], None]) -> BaseProcess:
    """A process, forked from this one, that does the sweep in `folder`; this one must never have trained anything."""
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_sweep, args=(folder, words, prepare))
    process.start()
    return process


def _sweep(folder: Path, words: Sequence[str], prepare: Callable[[], None]) -> None:
    os.chdir(folder)
    with Path("log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    prepare()
    sys.argv = ["run", *words]
    sys.exit(run.main())


def differences(one: Path, other: Path) -> list[str]:
    """Row files, arrays and grid that are not the same in two results folders, times and revision apart; by name."""
    names = sorted({str(path.relative_to(root)) for root in (one, other) for path in root.rglob("run-*")} | {GRID})
    return [name for name in names if not _same(one / name, other / name)]


GRID = "single/grid.json"


def _same(one: Path, other: Path) -> bool:
    if not (one.exists() and other.exists()):
        return False
    if one.suffix == ".npz":
        arrays, others = read_arrays(one), read_arrays(other)
        return arrays.keys() == others.keys() and all(
            arrays[name].dtype == others[name].dtype and np.array_equal(arrays[name], others[name]) for name in arrays
        )
    return CHANGING.sub("", one.read_text()) == CHANGING.sub("", other.read_text())


def partial_files(*roots: Path) -> list[Path]:
    """Files and folders that were not written to their end."""
    return [path for root in roots for path in root.rglob("*.partial")]
