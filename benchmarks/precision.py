"""What bfloat16 changes in the answers: `python -m benchmarks.precision model=minilm task=rte data_root=DIR`.

The fine-tuned model answers the report split in float32 and in bfloat16 under the masks of HIS; printed are the quality
in both, the answers that agree, the stability in both, and the time that the second takes of the first.
"""

import sys
import time
from dataclasses import replace

import numpy as np
from tabulate import tabulate

from experiments.sweep.command import run_command
from experiments.sweep.job import Job, evaluator_of
from experiments.sweep.jobs import Declared
from hies.evaluation import metrics
from hies.heads.masking import masked
from hies.methods import HIS
from hies.precision import PRECISIONS
from hies.tasks.classifier import predict


def main() -> int:
    """Print the table of every job that the command line names; the exit status."""
    return run_command(_compare, __doc__)


def _compare(declared: Declared) -> int:
    for job in declared.jobs:
        bench = evaluator_of(job.config)
        labels, tokens = bench.labels("report"), bench.encoded("report")
        unpruned: dict[str, np.ndarray] = {}
        rows = []
        plan = Job(replace(job.config, criterion=HIS()), ()).plan(bench)
        for ratio, pruned in plan.models.items():
            removed = pruned.removed
            answers, seconds = {}, {}
            for precision in PRECISIONS:
                with masked(bench.network, removed):
                    started = time.perf_counter()
                    found = predict(bench.network, tokens, bench.model.batch_size, precision)
                    seconds[precision] = time.perf_counter() - started
                answers[precision] = found["predictions"]
                unpruned.setdefault(precision, answers[precision])
            qualities = [metrics.quality(bench.task.metric, labels, answers[one])[1] for one in PRECISIONS]
            stabilities = [metrics.stability(answers[one], unpruned[one]) for one in PRECISIONS]
            agreement = metrics.stability(*answers.values())
            rows.append([ratio, *qualities, agreement, *stabilities, seconds["bfloat16"] / seconds["float32"]])
        print(f"{bench.model.name} on {bench.task.name}, {len(labels)} examples")
        headers = ["ratio", "quality 32", "quality 16", "agree (%)", "stability 32", "stability 16", "time 16 / 32"]
        print(tabulate(rows, headers=headers, floatfmt=(".1f", *[".2f"] * 6)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
