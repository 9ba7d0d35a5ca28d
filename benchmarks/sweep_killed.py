"""A sweep that is killed 20 times at random moments, against an undisturbed one: `python -m benchmarks.sweep_killed`.

30 real jobs of a tiny vision transformer. Each time the sweep is started again and killed with SIGKILL, whatever it is
at; then it is left to end. Rows must be the same byte for byte (times and revision apart), arrays equal, and no file
left that was not written to its end. Three of the kills hit a fresh interpreter, while it imports; the others hit
processes forked from one that has everything imported, so that they get further. Five of them wait for what a random
moment may miss: fine-tuning, scoring, and writing rows.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.sweeps import MODEL, differences, partial_files, start
from experiments.sweep import command
from hies.evaluation import checkpoints, evaluator
from hies.runs import files as results
from hies.tasks import classifier

SWEEP = ("-m", *MODEL, "criterion=random,l2,his,ae,ad", "seed=0,1,2", "task.data_seed=0,1", "sparsity.ratios=[0.3,0.6]")
JOBS = 30
FRESH = 3  # kills of a process that is not forked
AIMED = ("fine-tuning", "scoring", "writing rows", "scoring", "writing rows")  # kills that wait for this to begin
BETWEEN = "between: launcher, masks, files of the cache"
IMPORTING = 5.0  # seconds that a fresh interpreter may take to import everything
WATCHED = (
    (command, "jobs_of_sweep", "planning"),
    (checkpoints, "finetune", "fine-tuning"),
    (evaluator, "collect", "scoring"),
    (classifier, "predict", "evaluation"),
    (results, "write_run", "writing rows"),
)


def main() -> int:
    """Print what the kills hit and what came out; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_killed")
    parser.add_argument("--kills", type=int, default=20, help="how often")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        quiet, killed = Path(folder) / "quiet", Path(folder) / "killed"
        planning, whole = _undisturbed(quiet)
        hit = [_start_up(killed, moments) for _ in range(FRESH)]
        for word in AIMED:
            hit += _kill(killed, lambda word=word: _phase(killed) == word)
        while len(hit) < options.kills:
            left = (JOBS - _finished(killed)) / JOBS * (whole - planning) / (options.kills - len(hit) + 1)
            end = time.perf_counter() + moments.uniform(0, planning + 2 * left)
            hit += _kill(killed, lambda end=end: time.perf_counter() >= end)
        before = _finished(killed)
        last = start(killed, SWEEP, lambda: _watch(killed))
        last.join()
        print(f"An undisturbed sweep of {JOBS} jobs took {whole:.1f} s, {planning:.1f} s of them until the first job.")
        print(tabulate(Counter(hit).most_common(), headers=["what a kill hit", "times"]))
        print(f"{before} jobs were finished after the last kill, {_finished(killed)} in the end.")
        return _report(last.exitcode, quiet, killed)


def _report(status: int | None, quiet: Path, killed: Path) -> int:
    unequal = differences(quiet / "results", killed / "results")
    partial = partial_files(killed)
    print(f"Exit status of the last start: {status}. Files of rows and arrays that differ: {len(unequal)} {unequal}.")
    print(f"Files not written to their end: {len(partial)} {[path.name for path in partial]}.")
    return 1 if status or unequal or partial else 0


def _undisturbed(folder: Path) -> tuple[float, float]:
    """Seconds until the first job, and of the whole sweep."""
    started, planning = time.perf_counter(), 0.0
    process = start(folder, SWEEP, lambda: _watch(folder))
    while process.is_alive():
        process.join(0.02)
        if not planning and _phase(folder) not in ("start", "planning"):
            planning = time.perf_counter() - started
    if process.exitcode:
        sys.exit(f"The undisturbed sweep ended with {process.exitcode}: {(folder / 'log').read_text()}")
    return planning, time.perf_counter() - started


def _kill(folder: Path, due: Callable[[], bool]) -> list[str]:
    """What a process was at when it was killed, as soon as that was due; empty if it had ended."""
    (folder / "phase").unlink(missing_ok=True)
    process = start(folder, SWEEP, lambda: _watch(folder))
    while process.is_alive() and not due():
        process.join(0.001)
    if not process.is_alive():
        return []
    process.kill()
    process.join()
    return [_phase(folder)]


def _start_up(folder: Path, moments: random.Random) -> str:
    """Kill a fresh interpreter that most likely has not got to its work yet."""
    folder.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    with (folder / "log").open("a") as log:
        command = [sys.executable, "-m", "experiments.run", *SWEEP]
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, stdout=log, stderr=log)
        time.sleep(moments.uniform(0, IMPORTING))
        process.kill()
        process.wait()
    return "start of a fresh interpreter"


def _finished(folder: Path) -> int:
    return len(list((folder / "results").rglob("run-*.jsonl")))


def _phase(folder: Path) -> str:
    try:
        return (folder / "phase").read_text() or "start"
    except FileNotFoundError:
        return "start"


def _watch(folder: Path) -> None:
    """Have this process leave word of what it is at."""
    for module, name, word in WATCHED:
        setattr(module, name, _told(getattr(module, name), word, folder / "phase"))


def _told(work: Callable[..., Any], word: str, place: Path) -> Callable[..., Any]:
    def told(*arguments: Any, **options: Any) -> Any:
        before = place.read_text() if place.exists() else BETWEEN
        place.write_text(before if before == "fine-tuning" else word)
        try:
            return work(*arguments, **options)
        finally:
            place.write_text(before if before == "fine-tuning" else BETWEEN)

    return told


if __name__ == "__main__":
    sys.exit(main())
