"""Processes that do one sweep with one cache at the same time: `python -m benchmarks.sweep_together --processes 8`.

All are given the whole grid, and start together. Whatever several jobs need (checkpoint, statistics, answers for a
mask) must be computed by one of them alone, and the rows must be those of a single process.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.rounds import check_options
from benchmarks.sweeps import MODEL, differences, partial_files, start
from experiments.config.messages import CONF
from hies.evaluation import checkpoints, evaluator
from hies.methods import METHODS
from hies.tasks import classifier

RATIOS = 3  # rows of a job, that of ratio 0 among them
COMPUTING = {"checkpoints": "finetune", "statistics": "collect", "predictions": "predict"}
WHERE = ((checkpoints, "finetune"), (evaluator, "collect"), (classifier, "predict"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how often what was computed, and what came out; the exit status."""
    options = _options(arguments)
    grid = (f"criterion={','.join(options.criteria)}", f"seed={','.join(options.seeds)}")
    sweep = ("-m", *MODEL, *grid, "sparsity.ratios=[0.3,0.6]")
    jobs = len(options.criteria) * len(options.seeds)
    with tempfile.TemporaryDirectory() as folder:
        alone, together = Path(folder) / "alone", Path(folder) / "together"
        single = start(alone, sweep, lambda: None)
        single.join()
        processes = [start(together, sweep, lambda: _count(together / "count")) for _ in range(options.processes)]
        for process in processes:
            process.join()
        print(f"{options.processes} processes, {jobs} jobs, each process given all of them:")
        statuses = [single.exitcode, *(process.exitcode for process in processes)]
        good = _report_work((together / "count").read_text().splitlines())
        return 0 if _report_rows(alone, together, jobs, statuses) and good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_together")
    parser.add_argument("--processes", type=int, default=8, help="how many at the same time, 1 to 256")
    parser.add_argument("--criteria", type=_words, default="random,l2,his,ae,ad,hies", help="of the grid")
    parser.add_argument("--seeds", type=_words, default="0,1,2", help="of the grid")
    options = parser.parse_args(arguments)
    check_options(parser, options, processes=(1, 256))
    known = {*METHODS, *(f"{file.parent.name}/{file.stem}" for file in (CONF / "criterion").glob("*/*.yaml"))}
    if wrong := [word for word in options.criteria if word not in known]:
        parser.error(f"--criteria={wrong[0]} does not work; give some of {','.join(METHODS)}.")
    if wrong := [word for word in options.seeds if not _is_seed(word)]:
        parser.error(f"--seeds={wrong[0]} does not work; give whole numbers, as in 0,1,2.")
    return options


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",")))  # given twice, it is one job


def _is_seed(word: str) -> bool:
    return word.isdecimal() and int(word) < 2**32


def _report_work(lines: list[str]) -> bool:
    """A line for each kind of work; whether each piece of it was done once."""
    counts = {word: Counter(line.split()[1] for line in lines if line.startswith(word)) for word in ("asked", "made")}
    calls = Counter(line.split()[1] for line in lines if line.startswith("called"))
    table, good = [], True
    for kind, function in COMPUTING.items():
        asked, made = (Counter({name: n for name, n in counts[word].items() if kind in name}) for word in counts)
        counted = (asked.total(), len(asked), made.total(), max(made.values()))
        table.append([kind, *counted, f"{calls[function]} {function}"])
        good &= made.keys() == asked.keys() and max(made.values()) == 1
    # An evaluation is a call of predict; so is each look at the selection split while fine-tuning.
    checkpoints, statistics, evaluations = (line[3] for line in table)
    good &= (calls["finetune"], calls["collect"]) == (checkpoints, statistics)
    good &= calls["predict"] == evaluations + calls["finetune"]
    print(tabulate(table, headers=["", "asked for", "distinct", "computed", "most often", "calls"]))
    return good


def _report_rows(alone: Path, together: Path, jobs: int, statuses: list[int | None]) -> bool:
    lines = [line for path in (together / "results").rglob("run-*.jsonl") for line in path.read_text().splitlines()]
    unequal = differences(alone / "results", together / "results")
    partial = partial_files(together)
    print(f"Rows: {len(lines)} of {jobs * RATIOS}.")
    print(f"Files that differ from those of a single process: {len(unequal)} {unequal}.")
    print(f"Files not written to their end: {len(partial)}. Exit statuses: {statuses}.")
    return len(lines) == jobs * RATIOS and not unequal and not partial and not any(statuses)


def _count(log: Path) -> None:
    """Have this process leave a line for each thing that it asks the cache for, computes, and calls."""
    place = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*words: str) -> None:
        os.write(place, f"{' '.join(words)}\n".encode())  # one write, so that lines of processes do not mix

    def noted(cached: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Path, build: Callable[[], Any], *further: Any) -> Any:
            name = f"{path.parent.name}/{path.name}"
            note("asked", name)
            return cached(path, lambda: (note("made", name), build())[1], *further)

        return look

    def called(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: (note("called", name), work(*arguments, **options))[1]

    for module, name in ((checkpoints, "cached"), (evaluator, "cached_arrays")):
        setattr(module, name, noted(getattr(module, name)))
    for module, name in WHERE:
        setattr(module, name, called(name, getattr(module, name)))


if __name__ == "__main__":
    sys.exit(main())
