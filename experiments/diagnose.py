"""What HIS loses: `python -m experiments.diagnose experiment=glue criterion=his task=rte,sst2 seed=0`, for figure 1.

Among sparsity.ratios it finds the steepest drop of quality under HIS, and a report example that is lost there. The
attention of every head over its tokens goes to `<results_dir>/<name>/diagnosis-<model>-<task>-s<seed>.npz`. Options of
HIS count; any other criterion gives way to it.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.config.options import with_option
from experiments.config.schema import Config
from experiments.sweep.command import run_command
from experiments.sweep.job import Job, evaluator_of
from experiments.sweep.jobs import Declared
from experiments.sweep.progress import say
from hies.batching import Batch
from hies.errors import HiesError
from hies.evaluation import metrics
from hies.heads.attention import evaluating, handling
from hies.heads.calls import Call, SoftmaxCall
from hies.heads.sites import Removed, SiteTensors
from hies.methods import METHODS
from hies.progress import ProgressBar
from hies.runs.quality import same_answer
from hies.storage import replacing, write_arrays

LONGEST_TEXT = 40  # tokens that a figure has room for


def main() -> int:
    """Diagnoses every model, task and seed that the command line names; returns the exit status."""
    return run_command(_diagnose_all, __doc__)


def _diagnose_all(declared: Declared) -> int:
    configs = _by_file(declared)
    failed = 0
    for path, config in ProgressBar(configs.items(), "diagnosing", len(configs), unit="model", leave=False):
        try:
            arrays = _diagnose(config)
        except HiesError as error:
            failed = 1
            print(f"error: {with_option(error)}", file=sys.stderr)
            continue
        with replacing(path) as temporary:
            write_arrays(temporary, arrays)
        print(path)
    return failed


def _by_file(declared: Declared) -> dict[Path, Config]:
    """Returns what is diagnosed, by its file: the jobs of HIS, and where there are none, other jobs under HIS."""
    given = [job.config for job in declared.jobs if isinstance(job.config.criterion, METHODS["his"])]
    files = {file_of(config) for config in given}
    others = [job.config for job in declared.jobs if file_of(job.config) not in files]
    if others:
        names = ",".join(dict.fromkeys(config.criterion.name for config in others))
        say(f"HIS is diagnosed in the place of criterion={names}.")
    configs: dict[Path, Config] = {}
    for config in (*given, *(replace(config, criterion=METHODS["his"]()) for config in others)):
        if configs.setdefault(file_of(config), config) != config:
            raise HiesError(f"{file_of(config)} would be of two jobs of HIS that differ; give one of them.")
    return configs


def file_of(config: Config) -> Path:
    """Returns where the diagnosis of a configuration lies: beside the rows of the experiment `name`."""
    file_name = f"diagnosis-{config.model.name}-{config.task.name}-s{config.seed}.npz"
    return Path(config.results_dir) / config.name / file_name


def _diagnose(config: Config) -> dict[str, np.ndarray]:
    """The arrays of a diagnosis; their names and shapes are those of `analysis.data.diagnosis`, and sites, heads."""
    if config.task.modality != "text":
        raise HiesError(
            f"task={config.task.name} has no tokens; a diagnosis shows attention over those of a text task."
        )
    evaluator = evaluator_of(config)
    job = Job(config, ())
    plan = job.plan(evaluator)
    answers = {ratio: evaluator.predictions(masked.removed) for ratio, masked in plan.models.items()}
    labels = config.task.as_answers(evaluator.labels("report"))
    encoded = evaluator.encoded("report")
    before, ratio = _sharp_drop(config, labels, answers)
    lengths = np.array([encoded.length(i) for i in range(len(encoded))])
    example = lost_example(labels, answers[0.0], answers[ratio], lengths)
    if example is None:
        raise HiesError(
            f"No report example of task={config.task.name} with at most {LONGEST_TEXT} tokens is right unpruned and "
            f"wrong at ratio {ratio}, where HIS drops most; give other sparsity.ratios or another seed."
        )
    batch = {name: value.to(evaluator.device) for name, value in encoded.batch([example]).items()}
    received = attention_received(evaluator.network, batch)
    counts = dict(zip(map(str, plan.arrays["sites"]), map(int, plan.arrays["heads"]), strict=True))
    shown = {"label": labels, "unpruned": answers[0.0], "pruned": answers[ratio]}
    names = config.task.output_names(job.data_root)
    return {
        "seed": np.array(config.seed),
        "ratio_before": np.array(before),
        "ratio": np.array(ratio),
        "sites": plan.arrays["sites"],
        "heads": plan.arrays["heads"],
        "removed": flat_mask(counts, plan.models[ratio].removed),
        "tokens": np.array(evaluator.processor.convert_ids_to_tokens(batch["input_ids"][0].tolist())),
        "attention": torch.cat([received[site] for site in counts]).cpu().numpy(),
        "example": np.array(example),
        "checkpoint": np.array(evaluator.checkpoint_identity),
        **{part: np.array(shown_answer(values[example], names)) for part, values in shown.items()},
    }


def _sharp_drop(config: Config, labels: np.ndarray, answers: dict[float, np.ndarray]) -> tuple[float, float]:
    """The neighbouring ratios between which quality drops most."""
    ratios = list(answers)
    after = steepest_drop([metrics.quality(config.task.metric, labels, answers[ratio])[1] for ratio in ratios])
    if after is None:
        raise HiesError(f"HIS loses no quality on task={config.task.name} at the ratios {ratios}; add larger ones.")
    return ratios[after - 1], ratios[after]


def steepest_drop(quality: list[float | None]) -> int | None:
    """Returns the place after the largest drop between neighbours, the first of equal ones; None if none drops."""
    values = np.array([np.nan if value is None else value for value in quality], dtype=float)
    drops = -np.diff(values)
    if not (drops > 0).any():
        return None
    return int(np.nanargmax(drops)) + 1


def lost_example(labels: np.ndarray, unpruned: np.ndarray, pruned: np.ndarray, lengths: np.ndarray) -> int | None:
    """Returns the shortest example that is right unpruned and wrong pruned, the first of equal ones.

    Regression scores count as right where they round to the label's integer, as for stability. All arrays: [examples].

    Returns:
        Its position; None if none is lost, or all of them are too long.
    """
    right, kept = (same_answer(answers, labels) for answers in (unpruned, pruned))
    lost = np.flatnonzero(right & ~kept & (lengths <= LONGEST_TEXT))
    return int(lost[np.argmin(lengths[lost])]) if len(lost) else None


@torch.no_grad()
def attention_received(network: nn.Module, batch: Batch) -> SiteTensors:
    """Returns the share of its attention that each head gives to each token, mean over the queries, float32.

    Args:
        network: any model whose heads `hies.find_sites` finds.
        batch: one example without padding, as the model takes it.

    Returns:
        {site: [heads, tokens]}; the mean over its calls where a site is called several times.
    """
    calls: dict[str, list[Tensor]] = {}

    def note(site: str, call: Call, output: Tensor) -> Tensor:
        calls.setdefault(site, []).append(_weights(call)[0].mean(dim=1))
        return output

    with evaluating(network), handling(network, note):
        network(**{name: value for name, value in batch.items() if name != "labels"})
    shapes = {part.shape[1:] for parts in calls.values() for part in parts}
    if shapes != {batch["input_ids"].shape[1:]}:
        raise HiesError(f"{type(network).__name__} does not attend over the tokens themselves, so they have no share.")
    return {site: torch.stack(parts).mean(dim=0) for site, parts in calls.items()}


def _weights(call: Call) -> Tensor:
    """softmax(scale * q k^T) of an attention call, float32 [rows, heads, queries, keys]."""
    if isinstance(call, SoftmaxCall):
        return call.scores.float().softmax(dim=-1)
    key = call.key.float().repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
    scores = call.scale * call.query.float() @ key.mT
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if call.bias is not None:
        scores = scores + call.bias
    visible = torch.ones_like(scores[0, 0], dtype=torch.bool).tril() if call.causal else call.mask
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    if call.sinks is None:
        return scores.softmax(dim=-1)
    sinks = call.sinks[:, None] if call.sinks.dim() == 1 else call.sinks  # [..., heads, queries]
    sinks = sinks.float().unsqueeze(-1).expand(*scores.shape[:3], 1)
    return torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]


def flat_mask(heads: dict[str, int], removed: Removed) -> np.ndarray:
    """Returns whether each head of the model is removed, in order of depth, [heads of the model]."""
    return np.concatenate([np.isin(np.arange(count), removed.get(site, [])) for site, count in heads.items()])


def shown_answer(answer: Any, names: Sequence[str]) -> str:
    """Returns an answer as a figure shows it.

    Args:
        answer: a class index, a score on the scale of all answers, or of several labels a 0 or 1 for each: "0110".
        names: of the classes or labels, in order; none of scores.
    """
    if isinstance(answer, str):
        if len(answer) != len(names):
            return str(answer)
        return " and ".join(name for name, bit in zip(names, answer, strict=True) if bit == "1") or "no label"
    return names[int(answer)] if names else f"{answer:.1f} (0 to 5)"


if __name__ == "__main__":
    sys.exit(main())
