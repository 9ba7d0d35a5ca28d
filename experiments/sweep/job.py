"""One job is one curve: a model, a task, a criterion and a seed over a list of ratios."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from experiments.config.schema import Config, to_config
from experiments.sweep.devices import own_device
from hies.errors import HiesError, ParameterError, UnsupportedModelError
from hies.evaluation import metrics
from hies.evaluation.evaluator import Outcome, Tally, Workbench
from hies.heads.sites import Removed
from hies.methods.planning import AppliedMethod, Draw, MaskedHeads, Plan, Tick
from hies.runs import files as results
from hies.runs.files import read_arrays, read_run
from hies.runs.schema import BadRows
from hies.storage import digest, replacing, safe_filename
from hies.tasks.base import PromptTask

COMMAND = "python -m experiments.run"


@dataclass(frozen=True)
class Job:
    """A checked configuration and the overrides that make it, none of them a sweep or one of Hydra's own settings."""

    config: Config
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, node: DictConfig, overrides: Sequence[str]) -> "Job":
        """Returns the job of a composed configuration.

        How and where it runs (hydra/launcher=..., resources.gpus=...) is no part of it.

        Raises:
            HiesError: a value that its option cannot take.
        """
        kept = (word for word in overrides if not word.startswith(("hydra.", "hydra/", "resources.")))
        return cls(to_config(node), tuple(kept))

    @property
    def command(self) -> str:
        """The command line that repeats this job."""
        return " ".join([COMMAND, *(shlex.quote(override) for override in self.overrides)])

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that changes the result, and nothing else: no path, batch size, sparsity.mode or log setting."""
        config = self.config
        data_root = None if config.data_root is None else Path(config.data_root)
        return {
            "schema": results.SCHEMA,
            "model": [config.model.name, config.model.identity(config.task)],
            "task": [config.task.name, config.task.fingerprint(data_root), config.task.max_examples],
            "criterion": [config.criterion.name, config.criterion.knobs],
            "sparsity": config.sparsity.knobs,
            "calibration": asdict(config.calibration),
            "seed": config.seed,
            **({} if config.model.sites is None else {"sites": config.model.sites}),
            **({} if (judge := getattr(config.task, "judge", None)) is None else {"judge": judge}),
        }

    @cached_property
    def run_id(self) -> str:
        """A readable name that begins with a letter, and a digest of the identity."""
        config = self.config
        words = f"{config.model.name}-{config.task.name}-{config.criterion.name}-s{config.seed}"
        return f"run-{safe_filename(words)}-{digest(self.identity)}"

    @property
    def path(self) -> Path:
        """The row file."""
        return results.run_path(Path(self.config.results_dir), self.config.name, self.run_id)

    @property
    def lock(self) -> filelock.BaseFileLock:
        """Held by the process that is at this job; it goes with the process, however that ends."""
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self._lock_file)

    def lock_is_held(self) -> bool:
        """Whether a process is at this job; where none ever was, nothing is written to find out."""
        if not self._lock_file.exists():
            return False
        try:
            with self.lock.acquire(blocking=False):
                return False
        except filelock.Timeout:
            return True

    @property
    def _lock_file(self) -> Path:
        return self.path.parent / ".locks" / self.run_id

    @property
    def finished(self) -> bool:
        """Whether the rows are there, and as they were written."""
        return self.path.exists() and self.damage() is None

    def rows(self) -> list[results.Row]:
        """The rows as they were written.

        Raises:
            FileNotFoundError: the job has none yet.
            BadRows: they, or the arrays beside them, cannot be trusted.
        """
        try:
            rows = read_run(self.path, self.path.read_text(encoding="utf-8", errors="replace"))
            read_arrays(self.path, ("ratios",))
        except FileNotFoundError:
            raise
        except OSError as problem:
            raise BadRows(f"cannot be read ({problem.strerror})") from None
        return rows

    @property
    def written(self) -> list[int]:
        """When the rows and the record of a failure were written, in nanoseconds; empty if neither is there."""
        files = self.path, results.failure_path(self.path)
        return [file.stat().st_mtime_ns for file in files if file.exists()]

    def left_something_since(self, before: list[int]) -> bool:
        """Whether there are rows, or the record of a failure, that were not there at a look (`written`) before."""
        return self.written not in ([], before)

    def damage(self) -> str | None:
        """What is wrong with the row file, in words that follow its name; None if nothing is."""
        try:
            self.rows()
        except BadRows as problem:
            return str(problem)
        except FileNotFoundError:
            return "is not there"
        return None

    def put_aside_damaged(self) -> None:
        """Rename a row file that cannot be trusted, so that nothing is lost that a person may want to look at."""
        if self.path.exists() and self.damage() is not None:
            self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))

    def describe(self) -> dict[str, Any]:
        """What names this job in a grid."""
        config = self.config
        return {
            "run_id": self.run_id,
            "model": config.model.name,
            "task": config.task.name,
            "criterion": config.criterion.name,
            "parameters": self._knobs(),
            "seed": config.seed,
            "command": self.command,
        }

    @property
    def steps(self) -> int:
        """How many masks the job asks the model about: what a progress bar counts."""
        ratios = self.config.sparsity.ratios
        return len({0.0, *ratios}) + self.config.criterion.steps(ratios)

    def plan(self, bench: Workbench, tick: Tick = lambda: None) -> Plan:
        """Returns what the job evaluates; `tick` is called for each mask looked at to choose alpha."""
        config = self.config
        draw = Draw(config.seed, config.calibration.size)
        return config.criterion.plan(bench, draw, config.sparsity, config.sparsity.ratios, tick)

    def run(self, bench: Workbench, tick: Tick = lambda: None) -> list[results.Row]:
        """Score, select, evaluate every ratio and write the rows; the unpruned model is the row of ratio 0."""
        self._check(bench)
        plan = self.plan(bench, tick)
        answers, rows = [], []
        for ratio, pruned in plan.models.items():
            outcome = self._outcome(bench, ratio, pruned)
            answers.append(outcome.answers)
            scored = plan.seconds if np.isnan(outcome.prune_seconds) else outcome.prune_seconds
            times = {"score_seconds": scored, "eval_seconds": outcome.eval_seconds}
            measured = self._measured(bench, ratio, pruned.removed, outcome, answers[0])
            rows.append({**measured, **plan.notes[ratio], **{key: round(value, 4) for key, value in times.items()}})
            tick()
        arrays = plan.arrays | {
            "ratios": np.array(list(plan.models)),
            "predictions": np.stack(answers),
            "labels": bench.labels("report"),
        }
        results.write_run(self.path, rows, arrays)
        with replacing(self.path.with_suffix(".yaml")) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(self.config))), encoding="utf-8")
        return rows

    def _outcome(self, bench: Workbench, ratio: float, pruned: MaskedHeads | AppliedMethod) -> Outcome:
        if ratio:  # scored, unpruned answers, pruned answers
            passes = bench.scoring_passes(self.config.criterion.need, self.config.calibration.size)
            bench.tally.naive += passes + 2 * len(bench.labels("report"))
        return pruned.evaluated(bench)

    def _check(self, bench: Workbench) -> None:
        """Refuse before any work what the data or the model's structure do not allow."""
        bench.check_size(self.config.calibration.size)
        try:
            bench.check(self.config.criterion)
        except UnsupportedModelError as error:
            raise HiesError(
                f"criterion={self.config.criterion.name} does not fit model={self.config.model.name}: {error}"
            ) from None
        if bench.remove and self.config.criterion.removes_heads:
            self._check_removable(bench)

    def _check_removable(self, bench: Workbench) -> None:
        try:
            bench.prunable_sites()
        except UnsupportedModelError as error:
            raise HiesError(
                f"sparsity.mode is 'remove', but model={self.config.model.name} cannot be cut; "
                f"use sparsity.mode=mask: {error}"
            ) from None

    def _measured(
        self, bench: Workbench, ratio: float, removed: Removed, outcome: Outcome, unpruned: np.ndarray
    ) -> results.Row:
        labels, answers, cost = bench.labels("report"), outcome.answers, outcome.cost
        value, quality = bench.measure(answers)
        return {
            **self._constant(bench),
            "ratio": ratio,
            "heads_removed": sum(len(heads) for heads in removed.values()),
            "mask": removed,
            "value": value,
            "quality": quality,
            "stability": metrics.stability(answers, unpruned),
            "examples": len(labels),
            "parameters": cost and cost.parameters,
            "flops": cost and cost.flops,
            **{
                f"quality_{rule}": metrics.quality(self.config.task.metric, labels, answers)[1]
                for rule, answers in outcome.others.items()
            },
        }

    def _constant(self, bench: Workbench) -> results.Row:
        """What is the same in every row of the run."""
        config = self.config
        return {
            "run_id": self.run_id,
            "experiment": config.name,
            "model": config.model.name,
            "task": config.task.name,
            "split": "report",
            "criterion": config.criterion.name,
            **self._knobs(),
            **{name: value for name, value in config.sparsity.knobs.items() if name != "ratios"},
            "seed": config.seed,
            "calibration_size": config.calibration.size,
            "heads_total": bench.heads_total,
            "metric": config.task.metric,
            "checkpoint": bench.checkpoint_identity,
            "label_order": bench.label_order,
            "data": bench.content,
            "versions": results.versions(),
            "revision": results.revision(),
            "command": self.command,
            **({} if config.model.sites is None else {"sites": config.model.sites}),
            **self._task_notes(),
        }

    def _task_notes(self) -> dict[str, Any]:
        data_root = None if self.config.data_root is None else Path(self.config.data_root)
        return self.config.task.notes(data_root) if isinstance(self.config.task, PromptTask) else {}

    def _knobs(self) -> dict[str, Any]:
        return {name: value for name, value in self.config.criterion.knobs.items() if name != "seed"}


_evaluators: dict[str, Workbench] = {}
tally = Tally()  # of all workbenches of this process


def evaluator_of(config: Config) -> Workbench:
    """Returns the evaluator of a configuration; the last one stays loaded: a sweep reads model and data once."""
    _silence_libraries()
    device = torch.device(_device(config.device))
    data_root = None if config.data_root is None else Path(config.data_root)
    evaluator = Workbench(config.model, config.task, data_root, Path(config.cache_dir), device, tally)
    key = digest([evaluator.identity, str(device), config.model.batch_size, config.model.sites, config.cache_dir])
    if key not in _evaluators:
        _evaluators.clear()
        _evaluators[key] = evaluator
    _evaluators[key].fresh = config.force
    _evaluators[key].remove = config.sparsity.mode == "remove"
    return _evaluators[key]


def _silence_libraries() -> None:
    """Shows nothing but errors of transformers and the Hub."""
    import huggingface_hub
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()


def _device(name: str) -> str:
    if name == "auto":
        return own_device()
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise ParameterError("device", name, "use auto, cpu, or a device that torch can see") from None
    return name
