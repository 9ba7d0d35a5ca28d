"""What one job does, in whichever process a launcher runs it."""

import errno
import os
import threading
import time
import traceback
from functools import cache

import filelock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config.options import with_option
from experiments.config.outside import place_of
from experiments.sweep.job import Job, evaluator_of
from experiments.sweep.progress import progress
from experiments.wandb import mirror, redacted
from hies.errors import HiesError
from hies.runs import files as results

HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what every other job would meet as well
DISK_IS_FULL = os.strerror(errno.ENOSPC)  # how libraries that are written in another language say it
TAKEN = "taken"
MOMENT = 0.2  # seconds: whoever looks whether a job is taken holds its lock for less
PARENT_EVERY = 1.0  # seconds between two looks at the parent of a worker


class Stopped(OSError):
    """A disk that takes no more: this process goes on with no other job."""


_stopped: list[Stopped] = []  # what this process met, if anything


def work(node: DictConfig) -> str | Stopped | None:
    """Computes the job that Hydra has composed, as `compute`; returns what stops the sweep, for Hydra to hand on."""
    if not _stopped:
        try:
            return compute(Job.of(node, HydraConfig.get().overrides.task))
        except Stopped as error:
            _stopped.append(error)
    return _stopped[0]


def work_under(command: int, node: DictConfig) -> str | Stopped | None:
    """As `work`, in a process that ends when the process with the id `command` has ended."""
    if os.getpid() != command:
        end_with(command)
    return work(node)


@cache
def end_with(parent: int) -> None:
    """Ends this process, whatever it is at, when its parent has ended; locks go with it, files are whole or absent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def compute(job: Job) -> str | None:
    """Computes a job, or leaves it to the process that is at it; what goes wrong is in a record beside the rows.

    Returns:
        TAKEN where another process is at it.

    Raises:
        Stopped: the disk is full or cannot be written to.
    """
    try:
        with job.lock.acquire(timeout=MOMENT):
            _compute(job)
        return None
    except filelock.Timeout:
        return TAKEN
    except OSError as error:
        raise _stopping(error) from error


def _compute(job: Job) -> None:
    if job.finished and not job.config.force:  # another process was faster
        return
    progress.at(job)
    job.put_aside_damaged()
    results.failure_path(job.path).unlink(missing_ok=True)
    try:
        rows = job.run(evaluator_of(job.config), progress.tick)
    except HiesError as error:
        results.write_failure(job.path, redacted(str(with_option(error))), job.command)
    except Exception as error:
        if getattr(error, "errno", None) in HOPELESS or DISK_IS_FULL in str(error):
            raise _stopping(error) from error
        place = place_of(error)
        said = redacted(f"{f'{place}: ' if place else ''}{type(error).__name__}: {error}")
        results.write_failure(job.path, said, job.command, redacted(traceback.format_exc()))
    else:
        mirror(job, rows)
        progress.done(job, rows)


def _stopping(error: Exception) -> Stopped:
    """Returns what ends this process's part of the sweep."""
    if isinstance(error, Stopped):
        return error
    number, file = getattr(error, "errno", None) or errno.ENOSPC, getattr(error, "filename", None)
    return Stopped(number, getattr(error, "strerror", None) or str(error), file)
