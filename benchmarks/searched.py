"""What a greedy search reaches on the loss that it searches on.

python -m benchmarks.searched experiment=methods criterion=greedy model.batch_size=8 data_root=DIR

For every task that the command line names: the mean loss over the calibration examples, and over its seeds, of the
unpruned model, and with the heads masked that HIS and that a greedy search remove at each ratio. The last line is the
mean of the tasks of classes, whose losses have one unit (nats). Searches come from the cache where they are there.
"""

import sys
from dataclasses import replace

import numpy as np
from tabulate import tabulate

from experiments.sweep.command import run_command
from experiments.sweep.job import Job, evaluator_of
from experiments.sweep.jobs import Declared
from hies.methods import METHODS


def main() -> int:
    """Print the table of the jobs that the command line names; the exit status."""
    return run_command(_measure, __doc__)


def _measure(declared: Declared) -> int:
    ratios = declared.jobs[0].config.sparsity.ratios
    by_task: dict[str, list[list[float]]] = {}
    of_classes = set()
    for job in declared.jobs:
        task = job.config.task
        by_task.setdefault(task.name, []).append(_losses(job))
        if task.label_names():
            of_classes.add(task.name)
    rows = [[task, len(found), *np.mean(found, axis=0)] for task, found in by_task.items()]
    rows.append(["classes", "", *np.mean([row[2:] for row in rows if row[0] in of_classes], axis=0)])
    pruned = [f"{name} {ratio:.0%}" for ratio in ratios for name in ("HIS", "greedy")]
    print(tabulate(rows, headers=["task", "seeds", "unpruned", *pruned], floatfmt=".3f"))
    return 0


def _losses(job: Job) -> list[float]:
    """The mean loss of the unpruned model, then for each ratio that of the masks of HIS and of greedy."""
    config, bench = job.config, evaluator_of(job.config)
    plans = [Job(replace(config, criterion=METHODS[name]()), ()).plan(bench).models for name in ("his", "greedy")]
    removed = [{}, *(plan[ratio].removed for ratio in config.sparsity.ratios for plan in plans)]
    return [bench.calibration_loss(heads, config.seed, config.calibration.size) for heads in removed]


if __name__ == "__main__":
    sys.exit(main())
