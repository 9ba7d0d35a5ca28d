"""Runs the matrix on many types, each in a process of its own with limits on time and memory."""

import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

from tqdm import tqdm

import hies
from tests.walk.building import CannotBuildError
from tests.walk.matrix import row_of

SECONDS, BYTES = 120, 10 << 30


def answer_of(name):
    """The row of a type, or why there is none."""
    started = time.perf_counter()
    try:
        row = row_of(name)
    except CannotBuildError as error:
        row = {"type": name, "unbuilt": str(error), "faults": {}}
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def _child(name, pipe):
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    pipe.send(answer_of(name))


class _Attempt:
    """A process that works on one type."""

    def __init__(self, name):
        self.name, self.started = name, time.perf_counter()
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context("fork").Process(target=_child, args=(name, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self):
        """The row if there is one, None while the process works."""
        if self.pipe.poll(0.05):
            try:
                row = self.pipe.recv()
            except EOFError:
                row = self.failed("the process ended")
        elif time.perf_counter() - self.started > SECONDS:
            row = self.failed(f"it took more than {SECONDS} seconds")
        else:
            return None
        self.process.kill()
        self.process.join()
        return row

    def failed(self, reason):
        return {"type": self.name, "unbuilt": reason, "faults": {}}


def walk(names, jobs, path: Path, shown=True):
    """Appends the row of every type to a file of JSON lines, as soon as it is there."""
    waiting, running = list(names)[::-1], []
    for name in hies.__all__:  # imported once, not by every process
        getattr(hies, name)
    with path.open("a") as file, tqdm(total=len(waiting), desc="model types", disable=not shown) as bar:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Attempt(waiting.pop()))
            for attempt in list(running):
                if (row := attempt.answer()) is not None:
                    running.remove(attempt)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    bar.set_postfix_str(row["type"])
                    bar.update()


def rows_in(path: Path):
    """Type -> its last row in a file of JSON lines."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["type"]: row for row in rows}
