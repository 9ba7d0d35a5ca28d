"""Runs jobs, one a curve: `python -m experiments.run [-m] key=value ...`; those that are finished are skipped.

With `-m`, values separated by commas make a grid: `-m criterion=his,hies seed=0,1,2`. `experiment=NAME` is a grid that
is declared in conf/experiment. The same command again goes on where it was stopped; `force=true` computes anew. Rows go
to `<results_dir>/<name>/<run id>.jsonl`, the configuration of each job to `<run id>.yaml` beside them.
"""

import sys
from pathlib import Path

from experiments import wandb
from experiments.sweep.command import run_command
from experiments.sweep.job import Job, pass_counter
from experiments.sweep.jobs import Declared, leave_grid
from experiments.sweep.launch import Here, Launcher
from experiments.sweep.progress import progress, say
from experiments.sweep.summary import print_data, print_summary
from hies.errors import HiesError, printable
from hies.runs import files as results


def main() -> int:
    """Plans, skips what is finished, runs the rest; returns the exit status."""
    return run_command(_run_all, __doc__)


def _run_all(declared: Declared) -> int:
    if declared.sweep:
        leave_grid(declared)
    jobs = declared.jobs
    todo: list[Job] = []
    finished: list[Job] = []
    for job in jobs:
        (todo if job.config.force or not job.finished else finished).append(job)
    _check_data(finished)
    where = f"{jobs[0].config.results_dir}/{jobs[0].config.name}"
    if not todo:
        print(f"All {len(jobs)} jobs are finished, their rows are in {where}; force=true computes them again.")
        print_summary(jobs)
        return 0
    for job in todo:
        if job.path.exists() and not job.config.force:
            kept = f"the file is kept as {job.path.name}.damaged"
            say(printable(f"{job.path} {job.damage()}; it is computed again ({kept})."))
    print_data(todo)
    say(f"{len(todo)} of {len(jobs)} jobs to do, rows go to {where}.")
    _run_todo(todo, declared.launcher)
    if not declared.launcher.here:  # what jobs printed came to other terminals, or none
        say(f"{sum(job.finished for job in todo)} of {len(todo)} jobs finished.")
    _print_passes()
    print_summary(jobs)
    wandb.upload(jobs[0].config)
    return _print_failures(todo)


def _check_data(finished: list[Job]) -> None:
    """Refuses to skip a finished job whose task has other examples now, although it calls them by the same identity."""
    contents: dict[str, str] = {}
    for job in finished:
        task, key = job.config.task, repr(job.config.task)
        if key not in contents:
            contents[key] = task.load_checked(job.data_root, Path(job.config.cache_dir)).digest()
        if job.rows()[0]["data"] not in (None, contents[key]):
            raise HiesError(
                f"{job.path} was computed from other examples than task={task.name} has now under the same identity; "
                "let its identity() follow what load() returns, or give another name=, or force=true to replace it."
            )


def _run_todo(todo: list[Job], launcher: Launcher | Here) -> None:
    """Launches the jobs, waits for those that other processes are at, and launches again what these left undone."""
    before = {job.run_id: job.written for job in todo}
    progress.start(todo, launcher.here)
    try:
        waiting = todo
        while waiting and (taken := launcher.launch(waiting)):
            for job in taken:
                progress.at(job, elsewhere=True)
                with job.lock:
                    pass
                progress.at(None)
            waiting = [job for job in taken if not job.left_something_since(before[job.run_id])]
    finally:
        progress.close()


def _print_passes() -> None:
    """Prints what sharing spared the jobs of this process."""
    counter = pass_counter()
    if counter.asked:
        say(
            f"{counter.asked} pruned models asked about, {len(counter.distinct)} distinct, {counter.evaluated} "
            "evaluated now (the others were in the cache)."
        )
    if counter.naive:
        needed = sum(counter.needed.values())
        say(
            f"{needed:,} forward passes of an example, cached ones included; each cell of the grid on its own would "
            f"take {counter.naive:,} ({100 * needed / counter.naive:.0f} %)."
        )


def _print_failures(todo: list[Job]) -> int:
    """Names every job that has no rows, with the command that repeats it; returns the exit status."""
    failed = 0
    for job in todo:
        error = results.read_failure(job.path)
        if error is None and not job.finished:
            error = "The job ended without rows and without an error; its process was killed, or ran out of time."
        if error is not None:
            failed = 1
            print(printable(f"error: {error}  [{job.command}]"), file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
