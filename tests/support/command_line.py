"""What tests of the command line share: a quick job, its rows, and fixtures that `conftest` offers to all."""

import contextlib
import copy
import json
import os
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.hydra import Hydra

from experiments import run
from experiments.config import store
from experiments.config.messages import CONF
from experiments.config.options import translated
from experiments.sweep import job as job_module
from experiments.sweep import worker
from experiments.sweep.jobs import Declared, jobs_of_sweep
from experiments.sweep.launch import Here, Launcher

FAST = [
    *("model=vit_tiny", "model.architecture.num_hidden_layers=2", "model.finetune.epochs=1"),
    *("task=digits", "task.max_examples=101", "wandb.mode=disabled"),
]
TIMES = ("score_seconds", "eval_seconds", "digest")


def output_that_nobody_reads():
    """A standard output whose reader left, as that of a command before `| true`."""
    reads, writes = os.pipe()
    os.close(reads)
    return os.fdopen(writes, "w", encoding="utf-8")


def quicken_hydra():
    """Spares what Hydra does for nothing, since composing is half of the time of a small job.

    It composes every command twice, first to learn hydra.mode, which experiments and words of Hydra's own alone can set
    here; and each time it copies all that is known to it, of which it only ever replaces a list.
    """
    mode = Hydra.get_mode

    def get_mode(self, config_name, overrides):
        sets_it = any(name in word for word in (*sys.argv, *overrides) for name in ("hydra", "experiment", "--config"))
        return mode(self, config_name, overrides) if sets_it else None

    def shallow(self, delegate):
        self.delegate, self.cache = copy.copy(delegate), {}

    Hydra.get_mode, CachingConfigRepository.__init__ = get_mode, shallow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(cache, tmp_path, monkeypatch, capsys):
    """Run the command with a fresh results folder; gives (exit status, standard error)."""

    def call(*arguments, fast=True):
        folders = [f"results_dir={tmp_path}/results", f"cache_dir={cache}"]
        flags = [word for word in arguments if word == "-m"]
        words = [*(FAST if fast else []), *folders, *(word for word in arguments if word != "-m")]
        monkeypatch.setattr("sys.argv", ["run", *flags, *words])
        status = run.main()
        return status, capsys.readouterr().err

    call.results = tmp_path / "results"
    return call


def rows_of(folder):
    return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


@contextlib.contextmanager
def composing():
    """Hydra as a command has it."""
    store.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def launcher_of(*overrides):
    """The launcher of a command line; within `composing`."""
    return Launcher(compose("config", list(overrides), return_hydra_config=True), None)


def declared(*overrides, multirun=True) -> Declared:
    """What a command line declares; within `composing`."""
    overrides = translated(overrides)
    if not multirun:
        job = job_module.Job.of(compose("config", list(overrides)), overrides)
        return Declared([job], sweep=False, whole=False, launcher=Here())
    plain = [word for word in overrides if "," not in word]
    params = compose("config", plain, return_hydra_config=True).hydra.sweeper.params
    return jobs_of_sweep(overrides, dict(params), Here())


@pytest.fixture
def new_process(monkeypatch):
    """As in a process that has done no job yet."""
    monkeypatch.setattr(worker, "_stopped", [])
    job_module._evaluators.clear()
    yield
    job_module._evaluators.clear()
