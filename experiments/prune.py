"""A smaller model as a folder: `python -m experiments.prune model=minilm task=apidocs sparsity.ratio=0.3 out=DIR`.

A model.source whose classifier fits the task is taken as it is; any other is fine-tuned for the task first, as in
experiments.run. Heads are chosen as there, too (criterion, seed, calibration.size, and all of sparsity). They are cut
out of a copy, which is saved with its tokenizer or image processor, loaded from there, and compared with the model that
it was cut out of on the report split.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import astuple, replace
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hies
from experiments.config.schema import Config
from experiments.sweep.command import run_command
from experiments.sweep.job import Job, evaluator_of
from experiments.sweep.jobs import Declared
from experiments.sweep.summary import print_data
from hies.errors import HiesError
from hies.evaluation.models import PRUNABLE
from hies.methods import METHODS
from hies.progress import ProgressBar
from hies.pruning.selection import PlainHeads
from hies.runs.quality import mean_loss, stability
from hies.scoring.statistics import METHOD_STATISTICS
from hies.storage import replacing

if TYPE_CHECKING:  # torch and transformers, which are imported when the options are known to be right
    from transformers import PreTrainedModel

    from hies.efficiency.cost import Cost
    from hies.evaluation.evaluation import Evaluation
    from hies.evaluation.evaluator import Evaluator
    from hies.heads.sites import Removed

Line = tuple[str, str, str]  # name, of the dense model, of the pruned one
TEXTS, LONGEST, NEW_TOKENS = 4, 128, 24  # that speed is measured with: texts of so many tokens at most, and answers
# Lines on losses: a name, the losses of single examples, and what is made of their mean.
MEANS = (("loss", "losses", float), ("perplexity", "token_losses", exp))
SIZES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def main() -> int:
    """Prunes the model that the command line describes; returns the exit status."""
    return run_command(_prune_declared, __doc__, takes_out=True)


def _prune_declared(declared: Declared) -> int:
    if len(declared.jobs) != 1:
        raise HiesError(
            f"experiments.prune makes one model, but the command line declares {len(declared.jobs)} jobs; "
            "give one value for each option."
        )
    from hies.evaluation.evaluation import Evaluation

    (job,) = declared.jobs
    folder = _checked_folder(job.config)
    job = _where_heads_can_go(job)
    evaluator = evaluator_of(job.config)
    _check_cut(job.config, evaluator)
    print_data(declared.jobs)
    print(_before(evaluator), flush=True)
    if evaluator.model.sites == PRUNABLE and evaluator.prunable.refused:
        print(evaluator.prunable.note, flush=True)
    with ProgressBar(total=job.steps, unit="mask", desc="choosing heads") as bar:
        plan = job.plan(evaluator, bar.update)
        bar.set_description("evaluating both models")
        (ratio,) = job.config.sparsity.ratios
        removed = plan.models[ratio].removed
        plain = _save(hies.prune(evaluator.network, removed, job.config.sparsity.unit), evaluator, folder)
        dense = evaluator.evaluate({})
        bar.update()
        small = hies.load_pruned(folder).to(evaluator.device)  # type: ignore[arg-type]
        pruned = Evaluation.of({**evaluator.all_answers(small), "seconds": np.array(0.0)}, None)
        bar.update()
    print(_what_was_done(job.config, plan.notes[ratio].get("alpha_used"), removed, evaluator.heads_total))
    speeds, notes = _speeds(evaluator, small)
    lines = [*_comparison(evaluator, removed, dense, pruned), *speeds]
    print("".join(f"{name:<26}{before:>12}{after:>12}\n" for name, before, after in lines))
    how = f"was trained on {evaluator.training_name} here" if evaluator.is_trained_here else "was not trained here"
    print(f"The {_name(evaluator)} model {how}: {evaluator.checkpoint}\n")
    notes |= {name: text for name, text in evaluator.trained_on().items() if name == "weights"}
    notes |= _cost_of_plain(job, evaluator, removed, dense.answers)
    print("".join(f"{name}: {text}\n" for name, text in notes.items()))
    _write_card(folder, small, plain, job.config.task.name, lines, notes)
    print(f'{folder} holds the pruned model. To load it:\n\nimport hies\nmodel = hies.load_pruned("{folder}")')
    return 0


def _checked_folder(config: Config) -> Path:
    """Where the model goes, if it can go there, without links and dots; nothing is left there yet."""
    if len(config.sparsity.ratios) != 1:
        raise HiesError(
            f"sparsity.ratios is {config.sparsity.ratios}, but a model is pruned at one; give sparsity.ratio=0.3."
        )
    if not config.out:
        raise HiesError("out is missing; name the folder that the pruned model goes to, as in out=DIR.")
    from hies.pruning.files import RECORD

    try:
        folder = Path(config.out).resolve()
        if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
            raise HiesError(
                f"out is {config.out!r}, which holds files but no pruned model; name a new or empty folder."
            )
        _try_to_write(folder)
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError of Python's before 3.13
        reason = getattr(error, "strerror", None) or error
        raise HiesError(
            f"out is {config.out!r}, where no folder can be written ({reason}); name another one."
        ) from None
    return folder


def _try_to_write(folder: Path) -> None:
    """Makes and removes an empty folder where the model is written before it has its name; raises OSError."""
    above = next(path for path in (folder, *folder.parents) if path.exists())
    probe = above / f".{folder.name}.{os.getpid()}.partial"
    probe.mkdir()
    probe.rmdir()


def _where_heads_can_go(job: Job) -> Job:
    """Returns the job, with `model.sites=prunable` where only some heads can be cut out and no sites are named.

    A criterion that reads the weights of all heads, or searches among all of them, takes no part of a model.
    """
    config = job.config
    among_all = not config.criterion.need.isdisjoint({"l2", *METHOD_STATISTICS})
    if config.model.sites is not None or not config.criterion.removes_heads or among_all:
        return job
    sites = evaluator_of(config).prunable
    if not sites or not sites.refused:
        return job
    return replace(job, config=replace(config, model=replace(config.model, sites=PRUNABLE)))


def _check_cut(config: Config, evaluator: Evaluator) -> None:
    """Refuses a model whose heads cannot be cut out, and a ratio that is too small or too large for them."""
    if not config.criterion.removes_heads:
        heads_go = ", ".join(name for name, method in METHODS.items() if method.removes_heads)
        raise HiesError(
            f"criterion is {config.criterion.name}, which removes no heads; experiments.prune takes {heads_go}."
        )
    sites = evaluator.prunable_sites()
    import torch

    equal = {name: torch.zeros(site.heads) for name, site in sites.items()}
    (ratio,) = config.sparsity.ratios
    among = evaluator.prunable if config.sparsity.plain else sites
    if not config.criterion.masks(lambda _: equal, [ratio], config.sparsity, among)[ratio]:
        heads = sum(site.heads for site in sites.values())
        raise HiesError(f"sparsity.ratio is {ratio}, which removes none of the {heads} heads; give a larger one.")


def _what_was_done(config: Config, alpha: float | None, removed: Removed, heads: int) -> str:
    return (
        f"{config.model.name} on {config.task.name}, {config.criterion.name}"
        f"{'' if alpha is None else f' (alpha {alpha:g})'} on {config.calibration.size} calibration examples, "
        f"seed {config.seed}: {sum(map(len, removed.values()))} of {heads} heads cut out\n"
    )


def _cost_of_plain(job: Job, evaluator: Evaluator, removed: Removed, dense: np.ndarray) -> dict[str, str]:
    """What `sparsity.plain` costs against as many heads chosen freely, which are masked for it; nothing without it."""
    if not isinstance(removed, PlainHeads):
        return {}
    ratio = sum(map(len, removed.values())) / evaluator.heads_total
    sparsity = replace(job.config.sparsity, plain=False, ratio=ratio, ratios=[])
    free = replace(job, config=replace(job.config, sparsity=sparsity)).plan(evaluator).models[ratio].removed
    answers = evaluator.predictions(free)
    value = evaluator.measure(answers)[1]
    quality = "undefined" if value is None else f"{value:.1f} %"
    freely = f"As many heads chosen freely leave quality {quality} and stability {stability(answers, dense):.1f} %."
    return {"plain": f"{removed.note} {freely}"}


def _save(small: PreTrainedModel, evaluator: Evaluator, folder: Path) -> bool:
    """Writes the model and what prepares its inputs; a new folder appears when it is complete.

    A folder that is there stays, since somebody may work in it: nothing in it changes before the new model is saved.

    Returns:
        True if plain `from_pretrained` loads it.
    """
    try:
        with contextlib.nullcontext(folder) if folder.exists() else replacing(folder) as place:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".processor-", dir=place) as aside:
                if (processor := _processor(evaluator)) is not None:
                    processor.save_pretrained(aside)
                plain = hies.save_pruned(small, place)
                for file in [path for path in Path(aside).rglob("*") if path.is_file()]:
                    target = place / file.relative_to(aside)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
            return plain
    except OSError as error:
        raise HiesError(f"out is {str(folder)!r}, which cannot be written ({error.strerror or error}).") from None


def _write_card(
    folder: Path, small: PreTrainedModel, plain: bool, task: str, lines: list[Line], notes: dict[str, str]
) -> None:
    """Adds to the model card what was measured, and says whether plain `from_pretrained` loads the folder."""
    from hies.pruning.card import PLAIN, write_card

    metrics = {name: f"{after} (before: {before})" for name, before, after in lines if name}
    write_card(folder, small, plain, {"measured on": f"{task}, report split", **metrics, **notes})
    print(f"Plain from_pretrained {PLAIN[plain]}.")


def _processor(evaluator: Evaluator) -> Any:
    """The tokenizer or processor; for prepared images the image processor that the checkpoint comes with, or None."""
    if evaluator.processor is not None:
        return evaluator.processor
    from hies.evaluation.networks import PROCESSORS, load_weights

    try:
        return load_weights(PROCESSORS["image"], evaluator.checkpoint)
    except (OSError, ValueError, ImportError):
        return None


def _before(evaluator: Evaluator) -> str:
    """What is trained before anything is pruned, in a sentence."""
    model, task = evaluator.model, evaluator.task.name
    if not evaluator.is_trained_here:
        return f"{model.name} is not trained: {evaluator.checkpoint} is taken for {task} as it is."
    when = "was trained on" if evaluator.checkpoint_is_made else "is trained first on"
    source = "random weights" if model.architecture else evaluator.pretrained
    return (
        f"{model.name} {when} {evaluator.training_name}, from {source}; "
        f"a model that is fine-tuned already is given as +model.checkpoint.{task}=NAME_OR_FOLDER."
    )


def _name(evaluator: Evaluator) -> str:
    return "given" if hies.pruned_heads(evaluator.network) else "dense"


def _comparison(evaluator: Evaluator, removed: Removed, dense: Evaluation, pruned: Evaluation) -> list[Line]:
    """What the dense and the pruned model are, (name, dense, pruned).

    Args:
        evaluator: of both.
        removed: site -> heads that the pruned one lacks.
        dense: the dense one on the report split.
        pruned: the pruned one.
    """
    cost = evaluator.cost
    assert cost is not None  # its weights were found when they were cut
    kept = evaluator.heads_total - sum(map(len, removed.values()))
    columns = (
        (_name(evaluator), *_column(evaluator.heads_total, cost.dense, evaluator, dense, dense)),
        ("pruned", *_column(kept, cost.without(removed), evaluator, pruned, dense)),
    )
    names = ("", "heads", "parameters", "FLOPs of an example", f"quality ({evaluator.task.metric})", "stability")
    lines = list(zip(names, *columns, strict=True))
    for name, key, change in MEANS:
        if key in dense.losses:
            lines.append((name, _mean(dense.losses[key], change), _mean(pruned.losses[key], change)))
    return lines


def _mean(losses: np.ndarray, change: Callable[[float], float]) -> str:
    mean = mean_loss(losses)
    return "not finite" if mean is None else f"{change(mean):.4g}"


def _speeds(evaluator: Evaluator, small: PreTrainedModel) -> tuple[list[Line], dict[str, str]]:
    """Tokens a second of language models, as lines of the table, and how they were measured; nothing of others."""
    if evaluator.task.modality != "language":
        return [], {}
    from hies.efficiency.measure import measure_speed
    from hies.precision import machine

    dense, device = evaluator.network, evaluator.device
    example = evaluator.encoded("train", 1).batch([0] * TEXTS)
    texts = {name: values[:, :LONGEST].to(device) for name, values in example.items() if name != "labels"}
    one = {name: values[:1] for name, values in texts.items()}
    length = one["input_ids"].numel()
    with ProgressBar(total=2, unit="measurement", desc="measuring speed") as bar:
        reading = measure_speed(dense, small, texts)
        bar.update()
        writing = measure_speed(dense, small, one, NEW_TOKENS)
    ways = {
        f"{TEXTS} texts of {length} tokens in one forward pass": ("read", reading),
        f"{NEW_TOKENS} after one text of {length} tokens, which is read in that time too": ("generated", writing),
    }
    lines, notes = [], {}
    for way, (what, speed) in ways.items():
        lines.append((f"tokens {what} a second", f"{speed.dense.median:.3g}", f"{speed.small.median:.3g}"))
        low, median, high = (f"{100 * (gain - 1):+.1f}" for gain in astuple(speed.gain))
        notes[f"gain in tokens {what}"] = f"{median} %, quartiles {low} and {high} %: {way}"
    where = ", ".join(f"{name} {value}" for name, value in machine(device).items())
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    notes["speed"] = f"medians over rounds of both models in turn; {str(dense.dtype)[6:]}, {where}, {load}"
    return lines, notes


def _column(heads: int, cost: Cost, evaluator: Evaluator, found: Evaluation, unpruned: Evaluation) -> tuple[str, ...]:
    _, quality = evaluator.measure(found.answers)
    return (
        str(heads),
        _short(cost.parameters),
        _short(cost.flops),
        "undefined" if quality is None else f"{quality:.1f} %",
        f"{stability(found.answers, unpruned.answers):.1f} %",
    )


def _short(number: int) -> str:
    """Three digits and a letter, such as `22.7 M`."""
    size, letter = next(((size, letter) for size, letter in SIZES if number >= size), (1.0, ""))
    return f"{number / size:.3g} {letter}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
