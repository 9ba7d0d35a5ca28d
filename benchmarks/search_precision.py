"""What bfloat16 changes in a greedy search.

python -m benchmarks.search_precision experiment=methods criterion=greedy task=cola,sst2 seed=0 data_root=DIR

Two searches of each job, in float32 and in bfloat16, whatever is in the cache. Printed are, at every ratio, the heads
that both remove, the calibration loss (computed in float32) that each ends at, and the time of the second over that of
the first.
"""

import sys
import time

from tabulate import tabulate

from experiments.sweep.command import run_command
from experiments.sweep.job import Job, evaluator_of
from experiments.sweep.jobs import Declared
from hies.heads.sites import Removed
from hies.methods.greedy.greedy import Greedy
from hies.precision import PRECISIONS, computing
from hies.scoring.calibration_pass import collect


def main() -> int:
    """Print the table of every job that the command line names; the exit status."""
    return run_command(_compare, __doc__)


def _compare(declared: Declared) -> int:
    rows = [row for job in declared.jobs for row in _rows(job)]
    headers = ["task", "seed", "ratio", "heads", "in both", "loss 32", "loss 16", "time 16 / 32"]
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".1f", "", "", ".4f", ".4f", ".2f")))
    return 0


def _rows(job: Job) -> list[list[object]]:
    config, bench = job.config, evaluator_of(job.config)
    (first, before), (second, after) = (_search(job, precision) for precision in PRECISIONS)
    rows = []
    for ratio in config.sparsity.ratios:
        one, other = first[ratio], second[ratio]
        losses = [bench.calibration_loss(heads, config.seed, config.calibration.size) for heads in (one, other)]
        shared = len(_heads(one) & _heads(other))
        rows.append([bench.task.name, config.seed, ratio, len(_heads(one)), shared, *losses, after / before])
    return rows


def _search(job: Job, precision: str) -> tuple[dict[float, Removed], float]:
    """The heads that go at each ratio, and the seconds that the search took."""
    config, bench = job.config, evaluator_of(job.config)
    batches = bench.calibration(config.seed, config.calibration.size, config.model.batch_size)
    started = time.perf_counter()
    with computing(precision, bench.device):
        scores = Greedy()(collect(bench.network, batches, ("greedy",)))
    seconds = time.perf_counter() - started
    return {ratio: config.sparsity.select(scores, ratio) for ratio in config.sparsity.ratios}, seconds


def _heads(removed: Removed) -> set[tuple[str, int]]:
    return {(site, head) for site, heads in removed.items() for head in heads}


if __name__ == "__main__":
    sys.exit(main())
