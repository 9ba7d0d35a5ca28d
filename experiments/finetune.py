"""Make the checkpoints that are missing: `python -m experiments.finetune [-m] model=minilm task=sst2,rte`."""

import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from experiments.sweep.command import run_command
from experiments.sweep.job import evaluator_of
from experiments.sweep.jobs import Declared
from hies.progress import ProgressBar
from hies.storage import digest

if TYPE_CHECKING:
    from hies.evaluation.evaluator import Evaluator


def main() -> int:
    """Fine-tunes every model on every task that the command line names; returns the exit status."""
    return run_command(_finetune_all, __doc__)


def _finetune_all(declared: Declared) -> int:
    done: set[str] = set()
    for job in ProgressBar(declared.jobs, "fine-tuning", unit="job", leave=False):
        name = digest([job.config.model.identity(job.config.task), job.identity["task"]])
        if name not in done:
            done.add(name)
            tqdm.write(_report(evaluator_of(job.config)))
    return 0


def _report(evaluator: "Evaluator") -> str:
    """Where the checkpoint lies, made now if it was missing, and how good the unpruned model is."""
    where = evaluator.checkpoint
    found = {split: evaluator.quality({}, split) for split in ("selection", "report")}
    words = ", ".join(f"{'undefined' if q is None else f'{q:.2f}'} on the {split} split" for split, q in found.items())
    return f"{evaluator.model.name} on {evaluator.task.name}: {where}, quality {words}"


if __name__ == "__main__":
    sys.exit(main())
