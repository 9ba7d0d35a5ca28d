"""What a large results folder costs: `python -m benchmarks.sweep_scale`.

1,000 finished jobs (copies of one real run under the run ids of a declared grid): seconds of `experiments.status` and
of a no-op `experiments.run`, each a process of its own, imports included. 100,000 rows (14,286 files of
7 rows with arrays beside): seconds of `analysis.rows.load`, from single files and from a pack.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import hydra
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from analysis import load
from benchmarks.rounds import conditions
from benchmarks.sweeps import MODEL, start
from experiments.config import store
from experiments.config.messages import CONF
from experiments.sweep.job import Job
from experiments.sweep.jobs import jobs_of_sweep
from experiments.sweep.launch import Here
from hies.runs import files as results
from hies.runs.files import read_run
from hies.runs.pack import pack
from hies.runs.schema import sealed
from hies.storage import read_arrays, write_arrays

REAL = ("criterion=his", "sparsity.ratios=[0.1,0.2,0.3,0.4,0.5,0.6]")  # 7 rows, with that of ratio 0
GRID = (
    "-m",
    *MODEL,
    "name=finished",
    "criterion=random,l2,his,ae,ad,hies,hies/auto,hies/per_ratio,hies/per_task,hies/optimistic",
    "task.data_seed=0,1,2,3,4,5,6,7,8,9",
    "seed=0,1,2,3,4,5,6,7,8,9",
    "sparsity.ratios=[0.1,0.2,0.3,0.4,0.5,0.6]",
)
FILES = 14286  # of the frame


def main() -> None:
    """Print the seconds of each."""
    argparse.ArgumentParser(prog="python -m benchmarks.sweep_scale").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        job, rows, arrays = _real_run(here)
        os.chdir(here)
        count = _finish(rows, arrays)
        table = [[f"status of {count} finished jobs", _seconds_of("experiments.status")]]
        table.append([f"a no-op run of {count} finished jobs", _seconds_of("experiments.run")])
        _write_copies(job, rows, arrays, here / "frame" / "large")
        table.append([f"frame of {FILES * len(rows):,} rows, single files", _seconds(lambda: _load(here / "frame"))])
        pack(here / "frame" / "large", here / "packed" / "large")
        table.append([f"frame of {FILES * len(rows):,} rows, packed", _seconds(lambda: _load(here / "packed"))])
    print(tabulate(table, headers=["", "seconds"], floatfmt=".2f"))
    print(conditions())


def _jobs(words: Iterable[str]) -> list[Job]:
    words = [word for word in words if word != "-m"]
    store.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return jobs_of_sweep(words, {}, Here()).jobs


def _real_run(here: Path) -> tuple[Job, list[results.Row], dict[str, np.ndarray]]:
    """A job, its rows and its arrays, computed in a process of its own."""
    process = start(here, [*MODEL, *REAL], lambda: None)
    process.join()
    if process.exitcode:
        sys.exit((here / "log").read_text())
    (job,) = _jobs([*MODEL, *REAL])
    path = here / job.path
    rows = read_run(path, path.read_text(encoding="utf-8"))
    return job, rows, read_arrays(path.with_suffix(".npz"))


def _finish(rows: list[results.Row], arrays: dict[str, np.ndarray]) -> int:
    """Leave rows of every job of the grid; how many there are."""
    jobs = _jobs(GRID)
    for job in tqdm(jobs, unit="job", leave=False):
        own = job.describe()
        _write(job.path, rows, {**own, **own.pop("parameters"), "experiment": job.config.name}, arrays)
    return len(jobs)


def _write_copies(job: Job, rows: list[results.Row], arrays: dict[str, np.ndarray], folder: Path) -> None:
    """Rows of many runs that differ in their seed, with arrays beside."""
    for seed in tqdm(range(FILES), unit="file", leave=False):
        run_id = f"run-vit_tiny-digits-his-s{seed}-{seed:012x}"
        own = {"run_id": run_id, "experiment": folder.name, "seed": seed, "command": f"{job.command} seed={seed}"}
        _write(folder / f"{run_id}.jsonl", rows, own, arrays)


def _write(path: Path, rows: list[results.Row], own: results.Row, arrays: dict[str, np.ndarray]) -> None:
    """As `results.write_run` does, which looks for what killed processes left in the folder: too slow for thousands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [sealed({key: value for key, value in {**row, **own}.items() if key != "path"}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_arrays(path.with_suffix(".npz"), {**arrays, "run_id": np.array(path.stem)})


def _seconds_of(module: str) -> float:
    paths = os.pathsep.join([str(CONF.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", module, *GRID]
    return _seconds(lambda: subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths}))


def _load(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
