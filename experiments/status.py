"""How far a sweep is: `python -m experiments.status experiment=glue ...`, with the arguments of experiments.run.

No model is loaded and nothing is written, so it can be asked at any time, while processes are at the sweep as well.
"""

import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from experiments.sweep.command import run_command
from experiments.sweep.devices import check_device_name
from experiments.sweep.job import COMMAND, Job
from experiments.sweep.jobs import Declared
from experiments.sweep.summary import criterion_of, line_of
from hies.errors import printable
from hies.runs import files as results
from hies.runs.schema import BadRows

FINISHED, RUNNING, FAILED, DAMAGED, MISSING = "finished", "running", "failed", "damaged", "missing"
MINUTE, HOUR, DAY = 60, 3600, 86400
Kind = tuple[str, str, str]  # model, task, criterion
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
    rows: Sequence[results.Row] = ()


def main() -> int:
    """Prints the grid that the command line declares and what it lacks; returns the exit status."""
    return run_command(_show, __doc__)


def _show(declared: Declared) -> int:
    for device in dict.fromkeys(job.config.device for job in declared.jobs):
        check_device_name(device)
    states = [_state_of(job) for job in declared.jobs]
    print(_status_table(states))
    print(_status_summary(states))
    for state in states:
        if state.why:
            print(printable(f"{state.word}: {state.why}  [{state.job.command}]"))
    if any(state.word != FINISHED for state in states):
        print(f"To do the rest: {COMMAND} {shlex.join(sys.argv[1:])}")
        print(_time_left(states), end="")
    return 0


def _state_of(job: Job) -> State:
    """What the results folder says of a job."""
    damage = ""
    try:
        return State(job, FINISHED, rows=job.rows())
    except FileNotFoundError:
        pass
    except BadRows as problem:
        damage = f"{job.path} {problem}; it is computed again by the next run."
    if job.lock_is_held():
        return State(job, RUNNING)
    if (failure := results.read_failure(job.path)) is not None:
        return State(job, FAILED, failure)
    return State(job, DAMAGED if damage else MISSING, damage)


def _status_table(states: list[State]) -> str:
    """Models and tasks down, criteria across: finished/declared in each cell, and what else is to be said of it."""
    criteria = list(dict.fromkeys(criterion_of(state.job) for state in states))
    lines = list(dict.fromkeys(line_of(state.job) for state in states))
    cells = defaultdict(list)
    for state in states:
        cells[line_of(state.job), criterion_of(state.job)].append(state)
    shown = [[*line, *(_cell(cells[line, criterion]) for criterion in criteria)] for line in lines]
    return tabulate(shown, headers=["model", "task", *criteria], disable_numparse=True)


def _cell(states: list[State]) -> str:
    if not states:
        return ""
    counts = Counter(state.word for state in states)
    marks = [f"{counts[word]} {word}" for word in MARKED if counts[word]]
    return ", ".join([f"{counts[FINISHED]}/{len(states)}", *marks])


def _status_summary(states: list[State]) -> str:
    """How many jobs there are of each kind, in a sentence."""
    counts = Counter(state.word for state in states)
    others = [f"{counts[word]} {word}" for word in (*MARKED, MISSING) if counts[word]]
    done = f"{counts[FINISHED]} of {len(states)} jobs finished"
    return f"{states[0].job.config.name}: {', '.join([done, *others])}; rows are in {states[0].job.path.parent}."


def _time_left(states: Sequence[State]) -> str:
    """How long the rest takes, in a line; empty where no finished job tells."""
    kinds = [(*line_of(state.job), criterion_of(state.job)) for state in states]
    done = [(kind, seconds_of(state.rows)) for kind, state in zip(kinds, states, strict=True) if state.rows]
    seconds = expected_seconds([kind for kind, state in zip(kinds, states, strict=True) if not state.rows], done)
    return "" if seconds is None else f"Time left: {in_words(seconds)} of one process.\n"


def expected_seconds(kinds: Iterable[Kind], done: Sequence[tuple[Kind, float]]) -> float | None:
    """Returns what jobs take together: each the mean of its kind if one is done, else of model and task, else of all.

    Args:
        kinds: of the jobs that are not done.
        done: kinds of finished jobs, and the seconds that they took.

    Returns:
        Seconds; None where nothing is done.
    """
    if not done:
        return None
    times = defaultdict(list)
    for kind, seconds in done:
        for known in (kind, kind[:2], ()):
            times[known].append(seconds)
    nearest = (next(times[known] for known in (kind, kind[:2], ()) if known in times) for kind in kinds)
    return sum(sum(known) / len(known) for known in nearest)


def seconds_of(rows: Sequence[results.Row]) -> float:
    """Returns what scoring and evaluation of a job took; a calibration pass that several rows share counts once."""
    return sum({row["score_seconds"] for row in rows}) + sum(row["eval_seconds"] for row in rows)


def in_words(seconds: float) -> str:
    """Returns a length of time to two units, as in `about 3 h 20 min`."""
    if seconds < MINUTE:
        return "less than a minute"
    if seconds < HOUR:
        return f"about {round(seconds / MINUTE)} min"
    minutes = round(seconds / MINUTE)
    if seconds < DAY:
        return f"about {minutes // 60} h {minutes % 60} min"
    hours = round(seconds / HOUR)
    return f"about {hours // 24} d {hours % 24} h"


if __name__ == "__main__":
    sys.exit(main())
