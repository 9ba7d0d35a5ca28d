"""How far a sweep is: `python -m experiments.status experiment=glue ...`, with the arguments of experiments.run.

No model is loaded and nothing is written, so it can be asked at any time, while processes are at the sweep as well.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tabulate import tabulate

from experiments.sweep.command import run_command
from experiments.sweep.duration import Durations, in_words
from experiments.sweep.job import COMMAND, Job
from experiments.sweep.jobs import Declared
from hies.errors import printable
from hies.runs import files as results
from hies.runs.schema import BadRows

FINISHED, RUNNING, FAILED, DAMAGED, MISSING = "finished", "running", "failed", "damaged", "missing"
MARKED = (RUNNING, FAILED, DAMAGED)  # what a cell names besides how many are finished


@dataclass(frozen=True)
class State:
    """What became of a job.

    Attributes:
        job: the job.
        word: one of the words above.
        why: of a failed or damaged one, in a sentence.
        rows: of a finished one.
    """

    job: Job
    word: str
    why: str = ""
    rows: tuple[results.Row, ...] = ()


def main() -> int:
    """Prints the grid that the command line declares and what it lacks; returns the exit status."""
    return run_command(_show, __doc__)


def _show(declared: Declared) -> int:
    states = [state_of(job) for job in declared.jobs]
    print(status_table(states))
    print(status_summary(states))
    for state in states:
        if state.why:
            print(printable(f"{state.word}: {state.why}  [{state.job.command}]"))
    if any(state.word != FINISHED for state in states):
        print(f"To do the rest: {COMMAND} {shlex.join(sys.argv[1:])}")
        print(time_left(states), end="")
    return 0


def state_of(job: Job) -> State:
    """What the results folder says of a job."""
    damage = ""
    try:
        return State(job, FINISHED, rows=tuple(job.rows()))
    except FileNotFoundError:
        pass
    except BadRows as problem:
        damage = f"{job.path} {problem}; it is computed again by the next run."
    if _is_running(job):
        return State(job, RUNNING)
    if (failure := results.read_failure(job.path)) is not None:
        return State(job, FAILED, failure)
    return State(job, DAMAGED if damage else MISSING, damage)


def _is_running(job: Job) -> bool:
    try:
        return job.lock_is_held()
    except OSError:  # a folder that may only be read; a process at work would be somebody else's
        return False


def status_table(states: list[State]) -> str:
    """Models and tasks down, criteria across: finished/declared in each cell, and what else is to be said of it."""
    criteria = list(dict.fromkeys(criterion_of(state.job) for state in states))
    lines = list(dict.fromkeys(line_of(state.job) for state in states))
    cells: dict[tuple[tuple[str, str], str], list[State]] = {}
    for state in states:
        cells.setdefault((line_of(state.job), criterion_of(state.job)), []).append(state)
    shown = [[*line, *(_cell(cells.get((line, criterion), [])) for criterion in criteria)] for line in lines]
    return tabulate(shown, headers=["model", "task", *criteria], disable_numparse=True)


def line_of(job: Job) -> tuple[str, str]:
    """Model and task, as the command line chooses them."""
    return job.config.model.name, _choice(job, "task") or job.config.task.name


def criterion_of(job: Job) -> str:
    """The criterion as the command line chooses it: two choices may be one criterion with other knobs."""
    return _choice(job, "criterion") or str(job.config.criterion.name)


def _choice(job: Job, group: str) -> str | None:
    words = [override.removeprefix(f"{group}=") for override in job.overrides if override.startswith(f"{group}=")]
    return words[-1] if words else None


def _cell(states: list[State]) -> str:
    if not states:
        return ""
    counts = Counter(state.word for state in states)
    marks = [f"{counts[word]} {word}" for word in MARKED if counts[word]]
    return ", ".join([f"{counts[FINISHED]}/{len(states)}", *marks])


def status_summary(states: list[State]) -> str:
    """How many jobs there are of each kind, in a sentence."""
    counts = Counter(state.word for state in states)
    others = [f"{counts[word]} {word}" for word in (*MARKED, MISSING) if counts[word]]
    done = f"{counts[FINISHED]} of {len(states)} jobs finished"
    return f"{states[0].job.config.name}: {', '.join([done, *others])}; rows are in {states[0].job.path.parent}."


def time_left(states: Iterable[State]) -> str:
    """How long the rest takes, in a line; empty where no finished job tells."""
    durations = Durations()
    left = []
    for state in states:
        key = (*line_of(state.job), criterion_of(state.job))
        if state.word == FINISHED:
            durations.add(key, state.rows)
        else:
            left.append(key)
    seconds = durations.of(left)
    return "" if seconds is None else f"Time left: {in_words(seconds)} of one process.\n"


if __name__ == "__main__":
    sys.exit(main())
