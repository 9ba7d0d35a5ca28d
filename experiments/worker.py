"""What one Hydra job does, in whichever process a launcher runs it."""

import errno
import os
import traceback

import filelock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.job import Job, workbench
from experiments.mirror import mirror
from experiments.progress import progress
from experiments.quiet import quiet
from experiments.schema import to_config
from experiments.secrets import redacted
from hies.errors import HiesError
from hies.runs import files as results

HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what every other job would meet as well


TAKEN = "taken"
MOMENT = 0.2  # seconds: whoever looks whether a job is taken holds its lock for less


class Stopped(OSError):
    """A disk that takes no more: this process goes on with no other job."""


_stopped: list[Stopped] = []


def work(node: DictConfig) -> str | None:
    """Compute a job, or leave it to the process that is at it; what goes wrong is left in a record beside the rows.

    Returns:
        TAKEN where another process is at it.

    Raises:
        Stopped: the disk is full or cannot be written to.
    """
    if _stopped:
        raise _stopped[0]
    quiet()
    try:
        job = Job(to_config(node), tuple(HydraConfig.get().overrides.task))
        with job.lock.acquire(timeout=MOMENT):
            _work(job)
        return None
    except filelock.Timeout:
        return TAKEN
    except OSError as error:
        raise _stopping(error) from error


def _work(job: Job) -> None:
    if job.finished and not job.config.force:  # another process was faster
        return
    progress.at(job)
    job.put_aside_damaged()
    results.failure_path(job.path).unlink(missing_ok=True)
    try:
        rows = job.run(workbench(job.config), progress.tick)
    except HiesError as error:
        results.write_failure(job.path, redacted(str(error)), job.command)
    except Exception as error:
        if _is_hopeless(error):
            raise _stopping(error) from error
        said = redacted(f"{type(error).__name__}: {error}")
        results.write_failure(job.path, said, job.command, redacted(traceback.format_exc()))
    else:
        mirror(job, rows)
        progress.done(job, rows)


def _is_hopeless(error: Exception) -> bool:
    """Libraries that write in another language say it in words alone."""
    return getattr(error, "errno", None) in HOPELESS or os.strerror(errno.ENOSPC) in str(error)


def _stopping(error: Exception) -> Stopped:
    """What ends this process's part of the sweep."""
    if not isinstance(error, Stopped):
        number, file = getattr(error, "errno", None) or errno.ENOSPC, getattr(error, "filename", None)
        error = Stopped(number, getattr(error, "strerror", None) or str(error), file)
    _stopped.append(error)
    return error
