"""What a person sees of a running sweep: how far it is, with an estimate, and a line for every curve that is done."""

import sys
import threading
import warnings
from typing import Any

from tqdm import tqdm

from experiments.sweep.job import Job
from hies.progress import ProgressBar
from hies.runs.files import Row

LOOK_EVERY = 1.0  # seconds between two looks at the results folder


class Progress:
    """Counts masks where the jobs run in this process; finished jobs where other processes run them."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, jobs: list[Job], here: bool) -> None:
        """Shows a bar for the jobs that are to be done.

        Args:
            jobs: none of them finished.
            here: whether this process does them.
        """
        total, unit = (sum(job.steps for job in jobs), "mask") if here else (len(jobs), "job")
        self._bar = ProgressBar(total=total, unit=unit, smoothing=0.05)
        self._left = threading.Event()
        if not here:
            before = {job.run_id: job.written for job in jobs}
            threading.Thread(target=self._watch, args=(self._bar, jobs, before), daemon=True).start()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._left.set()
            self._bar.close()
            self._bar = None

    def at(self, job: Job | None, elsewhere: bool = False) -> None:
        """Names the job that is worked at, if any: here, or `elsewhere` by another process for which this one waits."""
        if self._bar is not None:
            name = f"{job.config.task.name} {job.config.criterion.name} seed {job.config.seed}" if job else ""
            self._bar.set_description(f"waits for another process at {name}" if elsewhere else name)

    def tick(self) -> None:
        """Counts a mask that the model was evaluated with."""
        if self._bar is not None:
            self._bar.update()

    def done(self, job: Job, rows: list[Row]) -> None:
        """Prints the curve of a job that is done, in a line."""
        if self._bar is not None:
            say(_curve(job, rows))

    def _watch(self, bar: ProgressBar, waiting: list[Job], before: dict[str, list[int]]) -> None:
        while waiting and not self._left.wait(LOOK_EVERY):
            still = [job for job in waiting if not job.left_something_since(before[job.run_id])]
            bar.update(len(waiting) - len(still))  # which a bar that is closed meanwhile takes too
            waiting = still


progress = Progress()


def say(text: str) -> None:
    """Prints a line above the bar."""
    tqdm.write(text, file=sys.stderr)


def print_warnings_above_the_bar() -> None:
    """Shows every warning of this process as one line."""
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")


def _curve(job: Job, rows: list[Row]) -> str:
    def at(row: Row) -> str:
        quality = "undefined" if row["quality"] is None else f"{row['quality']:.1f}"
        return f"{100 * row['ratio']:.0f} %: {quality} / {row['stability']:.1f}"

    curve = ", ".join(at(row) for row in rows)
    beyond = sorted(set(job.config.sparsity.ratios) - {row["ratio"] for row in rows})
    left_out = ", ".join(f"{100 * ratio:.0f} %" for ratio in beyond)
    said = f"; not at {left_out}, which is more than {job.config.criterion.name} can remove" if beyond else ""
    return f"{job.run_id}: quality / stability at share removed {curve}{said}"
