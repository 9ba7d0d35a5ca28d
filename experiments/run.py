"""The Hydra app: `python -m experiments.run [-m] key=value ...`, one job a curve; finished jobs are skipped."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import hydra
import transformers
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from experiments import schema
from experiments.grid import command_for, declared_jobs, write_grid
from experiments.job import Job, workbench
from experiments.messages import CONF, sentence
from experiments.mirror import mirror
from hies.errors import HiesError
from hies.results import Row


class Sweep:
    """What the jobs of this process share: one progress bar over all masks, and the sentences of what failed."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.bar: Any = None

    def start(self, jobs: list[Job]) -> None:
        """Show a bar with an estimate for the jobs that are not finished."""
        masks = sum(len({0.0, *job.config.sparsity.ratios}) for job in jobs)
        self.bar = tqdm(total=masks, unit="mask", disable=None, smoothing=0.05)

    def stepping(self, ratios: Iterable[float]) -> Iterator[float]:
        """Count each evaluated ratio."""
        for ratio in ratios:
            yield ratio
            if self.bar is not None:
                self.bar.update()

    def say(self, text: str) -> None:
        """A line above the bar."""
        tqdm.write(text, file=sys.stderr)


sweep = Sweep()
schema.register()


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _run(node: DictConfig) -> None:
    """One job, called by Hydra."""
    job = Job(schema.to_config(node), command_for(list(HydraConfig.get().overrides.task)))
    if job.finished and not job.config.force:
        return
    if sweep.bar is not None:
        sweep.bar.set_description(f"{job.config.task.name} {job.config.criterion.name} seed {job.config.seed}")
    try:
        rows = job.run(workbench(job.config), sweep.stepping)
    except HiesError as error:
        sweep.failures.append(f"{error}  [{job.command}]")
        return
    mirror(job, rows)
    sweep.say(_summary(job, rows))


def _summary(job: Job, rows: list[Row]) -> str:
    def at(row: Row) -> str:
        quality = "undefined" if row["quality"] is None else f"{row['quality']:.1f}"
        return f"{100 * row['ratio']:.0f} %: {quality} / {row['stability']:.1f}"

    curve = ", ".join(at(row) for row in rows)
    return f"{job.run_id}: quality / stability at heads removed {curve}"


def main() -> int:
    """Plan, skip what is finished, run the rest; the exit status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors arrive here, to be said in one sentence
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    arguments = get_args_parser().parse_args()
    if any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)):
        _run()
        return 0
    try:
        return _plan_and_run(arguments.overrides, arguments.multirun)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
    except HiesError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted; finished jobs are kept, and the same command goes on from there.", file=sys.stderr)
        return 130
    return 2


def _plan_and_run(overrides: list[str], multirun: bool) -> int:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        declared = declared_jobs(overrides, multirun)
    if declared.sweep:
        write_grid(declared)
    jobs = declared.jobs
    todo = [job for job in jobs if job.config.force or not job.finished]
    where = f"{jobs[0].config.results_dir}/{jobs[0].config.name}"
    if not todo:
        print(f"All {len(jobs)} jobs are finished, their rows are in {where}; force=true computes them again.")
        return 0
    sweep.say(f"{len(todo)} of {len(jobs)} jobs to do, rows go to {where}.")
    sweep.start(todo)
    _run()
    sweep.bar.close()
    for failure in sweep.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if sweep.failures else 0


if __name__ == "__main__":
    sys.exit(main())
