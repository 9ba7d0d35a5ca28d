"""Hands jobs to a Hydra launcher: this process, other processes of this machine, or a cluster."""

from collections.abc import Sequence

from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig

from experiments.job import Job
from experiments.worker import Stopped, work

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class Launcher:
    """The launcher that a command line names (`hydra/launcher=...`)."""

    def __init__(self, overrides: Sequence[str]) -> None:
        """overrides: of the command line, none of them a sweep; Hydra must be initialised."""
        self.config: DictConfig = compose("config", list(overrides), return_hydra_config=True)

    @property
    def here(self) -> bool:
        """Whether the jobs run in this process."""
        return bool(self.config.hydra.launcher._target_ == BASIC)

    def launch(self, jobs: Sequence[Job]) -> None:
        """Run jobs that are not finished; what they came to is on the disk.

        Raises:
            Stopped: a disk that takes no more.
        """
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(self.config)),
            task_function=work,
            config=self.config,
        )
        for returned in launcher.launch([job.overrides for job in jobs], initial_job_idx=0):
            error = returned._return_value
            if isinstance(error, Stopped):
                raise error
