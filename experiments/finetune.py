"""Make the checkpoints that are missing: `python -m experiments.finetune [-m] model=minilm task=sst2,rte`.

What model.source names is trained even where its classifier fits the task, such as a pruned model that is to recover.
"""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from experiments.config.schema import Config
from experiments.sweep.command import run_command
from experiments.sweep.job import evaluator_of
from experiments.sweep.jobs import Declared
from experiments.sweep.summary import print_data
from hies.progress import ProgressBar
from hies.storage import digest

if TYPE_CHECKING:
    from hies.evaluation.evaluator import Evaluator


def main() -> int:
    """Fine-tunes every model on every task that the command line names; returns the exit status."""
    return run_command(_finetune_all, __doc__)


def _finetune_all(declared: Declared) -> int:
    done: set[str] = set()
    print_data(declared.jobs)
    for job in ProgressBar(declared.jobs, "fine-tuning", unit="job", leave=False):
        config = _with_source_to_train(job.config)
        name = digest([config.model.identity(config.task), job.identity["task"]])
        if name not in done:
            done.add(name)
            tqdm.write(_report(evaluator_of(config)))
    return 0


def _with_source_to_train(config: Config) -> Config:
    """Returns the configuration without a checkpoint for the task that is its source."""
    model, task = config.model, config.task.name
    if model.source is None or model.checkpoint.get(task) != model.source:
        return config
    others = {name: folder for name, folder in model.checkpoint.items() if name != task}
    return replace(config, model=replace(model, checkpoint=others))


def _report(evaluator: "Evaluator") -> str:
    """Where the checkpoint lies, made now if it was missing, and how good the unpruned model is."""
    where = evaluator.checkpoint
    found = {split: evaluator.quality({}, split) for split in ("selection", "report")}
    words = ", ".join(f"{'undefined' if q is None else f'{q:.2f}'} on the {split} split" for split, q in found.items())
    return f"{evaluator.model.name} on {evaluator.task.name}: {where}, quality {words}"


if __name__ == "__main__":
    sys.exit(main())
