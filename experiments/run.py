"""The Hydra app: `python -m experiments.run [-m] key=value ...`, one job a curve; finished jobs are skipped."""

import sys

import hydra
from omegaconf import DictConfig

from experiments.grid import Declared, write_grid
from experiments.job import Job, tally
from experiments.launch import Launcher
from experiments.messages import CONF
from experiments.progress import progress, say
from experiments.shell import command
from hies.errors import HiesError, printable
from hies.runs import files as results


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _help(node: DictConfig) -> None:
    """Answers Hydra's own flags."""


def main() -> int:
    """Plan, skip what is finished, run the rest; the exit status."""
    return command(_run_all, _help)


def _run_all(declared: Declared) -> int:
    if out := next((job.config.out for job in declared.jobs if job.config.out), None):
        raise HiesError(f"out is {out!r}, but experiments.run writes rows and no model; experiments.prune takes out.")
    if declared.sweep:
        write_grid(declared)
    jobs = declared.jobs
    todo = [job for job in jobs if job.config.force or not job.finished]
    where = f"{jobs[0].config.results_dir}/{jobs[0].config.name}"
    if not todo:
        print(f"All {len(jobs)} jobs are finished, their rows are in {where}; force=true computes them again.")
        return 0
    _say_damaged(todo)
    say(f"{len(todo)} of {len(jobs)} jobs to do, rows go to {where}.")
    launcher = Launcher(declared.common)
    _run_todo(todo, launcher)
    if not launcher.here:  # what jobs said came to other terminals, or none
        say(f"{sum(job.finished for job in todo)} of {len(todo)} jobs finished.")
    _say_passes()
    return _say_failures(todo)


def _run_todo(todo: list[Job], launcher: Launcher) -> None:
    """Launch the jobs, wait for those that other processes are at, and launch again what these left undone."""
    before = {job.run_id: job.written for job in todo}
    progress.start(todo, launcher.here)
    try:
        left = todo
        while left and (taken := launcher.launch(left)):
            for job in taken:
                with job.lock:
                    pass
            left = [job for job in taken if not job.left_something_since(before[job.run_id])]
    finally:
        progress.close()


def _say_damaged(todo: list[Job]) -> None:
    for job in todo:
        if job.path.exists() and not job.config.force:
            say(
                printable(
                    f"{job.path} {job.damage()}; it is computed again (the file is kept as {job.path.name}.damaged)."
                )
            )


def _say_passes() -> None:
    """What sharing spared the jobs of this process."""
    if tally.asked:
        print(
            f"{tally.asked} pruned models asked about, {len(tally.distinct)} distinct, {tally.evaluated} evaluated now "
            "(the others were in the cache).",
            file=sys.stderr,
        )
    if tally.naive:
        needed = sum(tally.needed.values())
        print(
            f"{needed:,} forward passes of an example, cached ones included; each cell of the grid on its own would "
            f"take {tally.naive:,} ({100 * needed / tally.naive:.0f} %).",
            file=sys.stderr,
        )


def _say_failures(todo: list[Job]) -> int:
    """Name every job that has no rows, with the command that repeats it; the exit status."""
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
