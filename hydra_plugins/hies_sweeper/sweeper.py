"""Hands a sweep to the command that Hydra was started for, which composes its jobs and skips what is finished."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class HiesSweeper(Sweeper):
    """Knows the declared grid (`params`) and the launcher, and leaves the rest to `experiments.sweep.command.Command`.

    Attributes:
        params: key -> values separated by commas: the grid of an experiment, which the command line may override.
        max_batch_size: jobs that the launcher is given together; None for the launcher's own number.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size, self.params = max_batch_size, dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra says; the launcher is made when there are jobs for it."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Does the jobs that the arguments declare."""
        from experiments.sweep.launch import Launcher  # Hydra imports every plugin, also for other applications

        launcher = Launcher(self.config, self.hydra_context, self.max_batch_size)
        self.task_function.sweep(self.params, arguments, launcher)  # type: ignore[attr-defined]
