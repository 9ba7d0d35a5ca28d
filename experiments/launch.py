"""Hands jobs to a Hydra launcher: this process, other processes of this machine, or a cluster."""

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor
from omegaconf import DictConfig

from experiments.devices import local_workers
from experiments.job import Job
from experiments.orphans import work_under
from experiments.progress import say
from experiments.worker import TAKEN, Stopped, work
from hies.errors import HiesError

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
EXTRAS = {"hydra_plugins.hydra_joblib_launcher": "parallel", "hydra_plugins.hydra_submitit_launcher": "slurm"}
ARRAY = 1000  # jobs of one SLURM array, which by SLURM's own default takes 1,001


class Launcher:
    """The launcher that a command line names (`hydra/launcher=...`)."""

    def __init__(self, overrides: Sequence[str]) -> None:
        """overrides: of the command line, none of them a sweep; Hydra must be initialised.

        Raises:
            HiesError: a launcher whose package is not installed.
        """
        self.config: DictConfig = compose("config", list(overrides), return_hydra_config=True)
        self._node = self.config.hydra.launcher
        self._name = str(self.config.hydra.runtime.choices["hydra/launcher"])
        self._check_installed()
        if "n_jobs" in self._node:
            self._node.n_jobs = self._processes(self._node.n_jobs)

    @property
    def here(self) -> bool:
        """Whether the jobs run in this process."""
        return bool(self._node._target_ == BASIC or self._node.get("n_jobs") == 1)

    def launch(self, jobs: Sequence[Job]) -> list[Job]:
        """Run jobs that are not finished; what they came to is on the disk.

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
        """How many jobs a launcher is given together; submitit alone starts all of them at the same time."""
        default = cpu_count() if self._node._target_.endswith(".LocalLauncher") else ARRAY
        asked = self.config.hydra.sweeper.max_batch_size
        if asked is not None and asked < 1:
            raise HiesError(f"hydra.sweeper.max_batch_size is {asked}; it must be at least 1 (null for the default).")
        return int(asked or default)

    def _launch(self, jobs: Sequence[Job], before: dict[str, Any]) -> bool:
        """Run jobs; whether a process ended early.

        A worker of this machine that is killed takes the others with it. What they left undone is launched again, from
        its end, so that a job that kills its process comes last; that nothing gets done twice in a row is the end.
        """
        early, vain, left = False, 0, list(jobs)
        while left:
            try:
                return self._once(left) or early
            except BrokenProcessPool:
                early = True
                undone = [job for job in reversed(left) if not job.left_something_since(before[job.run_id])]
                vain = vain + 1 if len(undone) == len(left) else 0
                left = undone if vain < 2 else []
                then = f"{len(left)} jobs are launched again." if left else f"{len(undone)} jobs are left undone."
                say(f"A worker process ended early (it was killed, or memory ran out); {then}")
        return early

    def _once(self, jobs: Sequence[Job]) -> bool:
        """Give jobs to the launcher and wait for them; whether one of them ended early."""
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(self.config)),
            task_function=partial(work_under, os.getpid()) if "n_jobs" in self._node else work,
            config=self.config,
        )
        with self._heeding() as early:
            returned = launcher.launch([job.overrides for job in jobs], initial_job_idx=0)
        for job, came in zip(jobs, returned, strict=True):
            if isinstance(came._return_value, Stopped):
                raise came._return_value
            if came._return_value == TAKEN:
                self._taken.append(job)
        return bool(early)

    def _processes(self, asked: Any) -> int:
        if asked is None:
            return local_workers(self.config.device)
        if not isinstance(asked, int) or asked == 0:
            raise HiesError(
                f"hydra.launcher.n_jobs is {asked!r}; it is a number of processes, -1 for as many as cores, or null."
            )
        return asked

    def _check_installed(self) -> None:
        for package, extra in EXTRAS.items():
            if self._node._target_.startswith(package):
                try:
                    importlib.import_module(package)
                except ModuleNotFoundError:
                    raise HiesError(
                        f"hydra/launcher is {self._name!r}, whose package is not installed; "
                        f"pip install 'hies[{extra}]' brings it."
                    ) from None

    def _heeding(self) -> contextlib.AbstractContextManager[list[str]]:
        """What this launcher needs around a launch; yields a list that the ids of jobs that end early come into."""
        if "submitit" in self._node._target_:
            return self._submitit()
        return _loky() if "joblib" in self._node._target_ else contextlib.nullcontext([])

    @contextlib.contextmanager
    def _submitit(self) -> Iterator[list[str]]:
        """Yield a list that the ids of jobs that end early come into.

        Submitit would raise at the first of them and leave the rest of the array unheard.
        """
        import submitit

        early: list[str] = []
        kind: Any = submitit.Job
        of_job = kind.results

        def results_or_none(job: Any) -> list[Any]:
            try:
                return of_job(job)
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
            kind.results = of_job


@contextlib.contextmanager
def _loky() -> Iterator[list[str]]:
    """End the workers where this process is interrupted; joblib does so only once it has handed out jobs.

    A warning about workers that are replaced for their size is left out: a model that is loaded is no leak.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A worker stopped while some jobs")
            yield []
    except KeyboardInterrupt:
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)
        raise
