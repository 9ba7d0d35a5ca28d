"""Hands jobs to a Hydra launcher: this process, other processes of this machine, or a cluster."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib.util import find_spec
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.sweep.devices import cpu_count, local_workers
from experiments.sweep.job import Job
from experiments.sweep.progress import say
from experiments.sweep.worker import TAKEN, Stopped, compute, work, work_under
from hies.errors import HiesError

EXTRAS = {"hydra_joblib_launcher": "parallel", "hydra_submitit_launcher": "slurm"}
ARRAY = 1000  # jobs of one SLURM array, which by SLURM's own default takes 1,001


class Here:
    """Does jobs in this process, one after the other, as Hydra does a single one."""

    here = True

    def launch(self, jobs: Sequence[Job]) -> list[Job]:
        """Does jobs; returns those that another process is at."""
        return [job for job in jobs if compute(job) == TAKEN]


class Launcher:
    """The launcher that a command line names (`hydra/launcher=...`).

    Attributes:
        config: the composed configuration, Hydra's own node included.
        context: what Hydra gives to a sweeper for its launcher.
        max_batch_size: jobs that are handed over together; None for the launcher's own number.

    Raises:
        HiesError: a launcher whose package is not installed, or a number that it cannot take.
    """

    def __init__(self, config: DictConfig, context: HydraContext, max_batch_size: int | None = None) -> None:
        self.config, self.context, self.max_batch_size = config, context, max_batch_size
        self._node = config.hydra.launcher
        self._name = str(config.hydra.runtime.choices["hydra/launcher"])
        self._check_installed()
        if "n_jobs" in self._node:
            self._node.n_jobs = self._processes(self._node.n_jobs)
        if max_batch_size is not None and max_batch_size < 1:
            raise HiesError(
                f"hydra.sweeper.max_batch_size is {max_batch_size}; it must be at least 1 (null for the default)."
            )

    @property
    def here(self) -> bool:
        """Whether the jobs run in this process."""
        return self._name == "basic" or bool(self._node.get("n_jobs") == 1)

    def launch(self, jobs: Sequence[Job]) -> list[Job]:
        """Runs jobs that are not finished; what they came to is on the disk.

        Returns:
            Those that were left to other processes, which are at them.

        Raises:
            Stopped: a disk that takes no more.
            HiesError: the launcher cannot start a job, or finished jobs that `force` repeats were not computed again.
        """
        before = {job.run_id: job.written for job in jobs}
        early = False
        self._taken: list[Job] = []
        for start in range(0, len(jobs), self._at_once):
            early |= self._launch(jobs[start : start + self._at_once], before)
        old = [
            job
            for job in jobs
            if early and job.config.force and job.finished and not job.left_something_since(before[job.run_id])
        ]
        if old:
            raise HiesError(
                f"{len(old)} of {len(jobs)} jobs were not computed again as force=true asks, since a process ended "
                f"early; the older rows are still there, those of {old[0].run_id} among them."
            )
        return self._taken

    @property
    def _at_once(self) -> int:
        """Jobs that a launcher is given together; submitit alone starts all of them at the same time."""
        return self.max_batch_size or (cpu_count() if self._name == "submitit_local" else ARRAY)

    def _launch(self, jobs: Sequence[Job], before: dict[str, Any]) -> bool:
        """Runs jobs; returns whether a process ended early.

        A worker of this machine that is killed takes the others with it. What they left undone is launched again, from
        its end, so that a job that kills its process comes last; that nothing gets done twice in a row is the end.
        """
        early, vain, undone = False, 0, list(jobs)
        while undone and vain < 2:
            try:
                return self._launch_once(undone) or early
            except BrokenProcessPool:
                early, tried = True, len(undone)
                undone = [job for job in reversed(undone) if not job.left_something_since(before[job.run_id])]
                vain = vain + 1 if len(undone) == tried else 0
                then = f"{len(undone)} jobs are {'launched again' if undone and vain < 2 else 'left undone'}."
                say(f"A worker process ended early (it was killed, or memory ran out); {then}")
        return early

    def _launch_once(self, jobs: Sequence[Job]) -> bool:
        """Gives jobs to Hydra's launcher and waits for them; returns whether one of them ended early."""
        # A worker of joblib that outlived its command would keep its memory and its GPU.
        task: TaskFunction = partial(work_under, os.getpid()) if "n_jobs" in self._node else work
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=task, config=self.config
        )
        with self._ended_early() as early:
            returned = launcher.launch([job.overrides for job in jobs], initial_job_idx=0)
        for job, done in zip(jobs, returned, strict=True):
            # A job that failed raises here what kept it from leaving a record; one that submitit has lost is unknown.
            came_of_it = None if done.status == JobStatus.UNKNOWN else done.return_value
            if isinstance(came_of_it, Stopped):
                raise came_of_it
            if came_of_it == TAKEN:
                self._taken.append(job)
        return bool(early)

    def _processes(self, number: Any) -> int:
        if number is None:
            return local_workers(self.config.device)
        if not isinstance(number, int) or number == 0:
            raise HiesError(
                f"hydra.launcher.n_jobs is {number!r}; it is a number of processes, -1 for as many as cores, or null."
            )
        return number

    def _check_installed(self) -> None:
        for package, extra in EXTRAS.items():
            if f".{package}." in self._node._target_ and find_spec(f"hydra_plugins.{package}") is None:
                raise HiesError(
                    f"hydra/launcher is {self._name!r}, whose package is not installed; "
                    f"pip install -e '.[{extra}]' in the clone brings it."
                )

    def _ended_early(self) -> contextlib.AbstractContextManager[list[str]]:
        """What this launcher needs around a launch; yields a list that the ids of jobs that end early come into."""
        if "submitit" in self._name:
            return self._submitit()
        return _loky() if "joblib" in self._name else contextlib.nullcontext([])

    @contextlib.contextmanager
    def _submitit(self) -> Iterator[list[str]]:
        """Goes on past jobs of submitit that end early.

        Hydra's launcher asks job after job for its results, and submitit raises at the first that has none: the rest of
        the array would go unheard. Neither has an option for it, so `Job.results` is replaced for the time of a launch.
        """
        import submitit

        early: list[str] = []
        kind: Any = submitit.Job
        original = kind.results

        def results_or_none(job: Any) -> list[Any]:
            try:
                return original(job)
            except submitit.core.utils.UncompletedJobError:
                early.append(job.job_id)
                say(f"Job {job.job_id} ended early (killed, or out of time or memory); see {job.paths.stderr}.")
                return [JobReturn()]

        kind.results = results_or_none
        try:
            yield early
        except (RuntimeError, AssertionError, NameError) as error:  # what submitit raises of a cluster that refuses
            said = " ".join(str(error).split())
            raise HiesError(f"hydra/launcher={self._name} cannot start jobs: {said}") from None
        finally:
            kind.results = original


@contextlib.contextmanager
def _loky() -> Iterator[list[str]]:
    """Ends the workers where this process is interrupted; joblib does so only once it has handed out jobs.

    A warning about workers that are replaced for their size is left out: a model that is loaded is no leak.
    """
    from joblib.externals.loky import get_reusable_executor

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A worker stopped while some jobs")
            yield []
    except KeyboardInterrupt:
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)
        raise
