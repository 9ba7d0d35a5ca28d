"""The Hydra app: `python -m experiments.run [-m] key=value ...`, one job a curve; finished jobs are skipped."""

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.grid import Declared, command_for, write_grid
from experiments.job import Job, tally, workbench
from experiments.messages import CONF
from experiments.mirror import mirror
from experiments.schema import to_config
from experiments.shell import command
from hies import results
from hies.errors import HiesError
from hies.results import Row


class Sweep:
    """What the jobs of this process share: one progress bar over all masks, and the sentences of what failed."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.bar: Any = None

    def start(self, jobs: list[Job]) -> None:
        """Show a bar with an estimate for the jobs that are not finished."""
        self.bar = tqdm(total=sum(job.steps for job in jobs), unit="mask", disable=None, smoothing=0.05)

    def tick(self) -> None:
        """Count a mask that the model was asked about."""
        if self.bar is not None:
            self.bar.update()

    def say(self, text: str) -> None:
        """A line above the bar."""
        tqdm.write(text, file=sys.stderr)


sweep = Sweep()


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _run(node: DictConfig) -> None:
    """One job, called by Hydra."""
    job = Job(to_config(node), command_for(list(HydraConfig.get().overrides.task)))
    if job.finished and not job.config.force:
        return
    if sweep.bar is not None:
        sweep.bar.set_description(f"{job.config.task.name} {job.config.criterion.name} seed {job.config.seed}")
    try:
        rows = job.run(workbench(job.config), sweep.tick)
    except HiesError as error:
        sweep.failures.append(f"{error}  [{job.command}]")
        results.write_failure(job.path, str(error), job.command)
        return
    mirror(job, rows)
    sweep.say(_summary(job, rows))


def _summary(job: Job, rows: list[Row]) -> str:
    def at(row: Row) -> str:
        quality = "undefined" if row["quality"] is None else f"{row['quality']:.1f}"
        return f"{100 * row['ratio']:.0f} %: {quality} / {row['stability']:.1f}"

    curve = ", ".join(at(row) for row in rows)
    beyond = sorted(set(job.config.sparsity.ratios) - {row["ratio"] for row in rows})
    left_out = ", ".join(f"{100 * ratio:.0f} %" for ratio in beyond)
    said = f"; not at {left_out}, which is more than {job.config.criterion.name} can remove" if beyond else ""
    return f"{job.run_id}: quality / stability at share removed {curve}{said}"


def main() -> int:
    """Plan, skip what is finished, run the rest; the exit status."""
    return command(_run_all, _run)


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
    sweep.say(f"{len(todo)} of {len(jobs)} jobs to do, rows go to {where}.")
    sweep.start(todo)
    _run()
    sweep.bar.close()
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
    for failure in sweep.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if sweep.failures else 0


if __name__ == "__main__":
    sys.exit(main())
