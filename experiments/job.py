"""One job is one curve: a model, a task, a criterion and a seed over a list of ratios."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.schema import Config
from hies import metrics, results
from hies.cache import digest
from hies.errors import HiesError
from hies.selection import select_iteratively
from hies.sites import Removed, SiteTensors, join
from hies.statistics import Statistics
from hies.workbench import Workbench

Progress = Callable[[Iterable[float]], Iterable[float]]


@dataclass(frozen=True)
class Job:
    """A checked configuration and the command that repeats it."""

    config: Config
    command: str

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that changes the result, and nothing else: no path, no batch size, no log setting."""
        config = self.config
        data_root = None if config.data_root is None else Path(config.data_root)
        return {
            "schema": results.SCHEMA,
            "model": [config.model.name, config.model.identity(config.task)],
            "task": [config.task.name, config.task.identity(data_root), config.task.max_examples],
            "criterion": [config.criterion.name, asdict(config.criterion)],
            "sparsity": asdict(config.sparsity),
            "calibration": asdict(config.calibration),
            "seed": config.seed,
        }

    @cached_property
    def run_id(self) -> str:
        """A readable name that begins with a letter, and a digest of the identity."""
        config = self.config
        words = f"{config.model.name}-{config.task.name}-{config.criterion.name}-s{config.seed}"
        return "run-" + "".join(c if c.isalnum() or c in "-_." else "_" for c in words) + f"-{digest(self.identity)}"

    @property
    def path(self) -> Path:
        """The row file."""
        return results.run_path(Path(self.config.results_dir), self.config.name, self.run_id)

    @property
    def finished(self) -> bool:
        """Whether the row file is there; it appears only when it is complete."""
        return self.path.exists()

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

    def run(self, bench: Workbench, progress: Progress = lambda ratios: ratios) -> list[results.Row]:
        """Score, select, evaluate every ratio and write the rows; the unpruned model is the row of ratio 0."""
        started = time.perf_counter()
        scoring = Scoring(self.config, bench)
        masks: dict[float, Removed] = {0.0: {}} | scoring.masks()
        score_seconds = time.perf_counter() - started
        answers, rows = [], []
        for ratio in progress(sorted(masks)):
            started = time.perf_counter()
            answers.append(bench.predictions(masks[ratio]))
            seconds = time.perf_counter() - started
            measured = self._measured(bench, ratio, masks[ratio], answers[-1], answers[0])
            rows.append({**measured, "score_seconds": round(score_seconds, 4), "eval_seconds": round(seconds, 4)})
        arrays = scoring.arrays() | {
            "ratios": np.array(sorted(masks)),
            "predictions": np.stack(answers),
            "labels": bench.splits.report.labels,
        }
        results.write_run(self.path, rows, arrays)
        return rows

    def _measured(
        self, bench: Workbench, ratio: float, removed: Removed, answers: np.ndarray, unpruned: np.ndarray
    ) -> results.Row:
        labels = bench.splits.report.labels
        value, quality = metrics.quality(self.config.task.metric, labels, answers)
        cost = bench.cost.without(removed) if bench.cost else None
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
            "scope": config.sparsity.scope,
            "schedule": config.sparsity.schedule,
            "min_heads_per_layer": config.sparsity.min_heads_per_layer,
            "step": config.sparsity.step,
            "seed": config.seed,
            "calibration_size": config.calibration.size,
            "heads_total": bench.heads_total,
            "metric": config.task.metric,
            "checkpoint": bench.checkpoint_identity,
            "data": bench.data,
            "versions": results.versions(),
            "revision": results.revision(),
            "command": self.command,
        }

    def _knobs(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self.config.criterion).items() if name != "seed"}


class Scoring:
    """The scores of a job and the masks that follow from them."""

    def __init__(self, config: Config, bench: Workbench) -> None:
        self.config, self.bench = config, bench
        self.statistics = self._collect({})
        self.scores: SiteTensors = config.criterion(self.statistics)

    def masks(self) -> dict[float, Removed]:
        """The heads that go at each ratio of the sparsity configuration."""
        sparsity = self.config.sparsity
        if sparsity.schedule == "iterative":
            return select_iteratively(self._score, sparsity.ratios, sparsity.step, sparsity)
        return {ratio: sparsity.select(self.scores, ratio) for ratio in sparsity.ratios}

    def arrays(self) -> dict[str, np.ndarray]:
        """Scores of all heads in order of depth, and how many heads each site has."""
        heads = self.statistics.heads
        found = {"scores": self.scores}
        if self.statistics.gradient:
            found["his"] = self.statistics.his
        if self.statistics.entropy:
            found["ae"] = self.statistics.ae
        flat = {name: join(tensors).to(torch.float64).numpy() for name, tensors in found.items()}
        return {"sites": np.array(list(heads)), "heads": np.array(list(heads.values()))} | flat

    def _score(self, removed: Removed) -> SiteTensors:
        return self.config.criterion(self._collect(removed)) if removed else self.scores

    def _collect(self, removed: Removed) -> Statistics:
        config = self.config
        return self.bench.statistics(config.criterion.need, config.seed, config.calibration.size, removed)


_benches: dict[str, Workbench] = {}


def workbench(config: Config) -> Workbench:
    """The workbench of a configuration; the last one stays loaded, so that a sweep reads model and data once."""
    device = torch.device(_device(config.device))
    data_root = None if config.data_root is None else Path(config.data_root)
    bench = Workbench(config.model, config.task, data_root, Path(config.cache_dir), device)
    key = digest([bench.identity, str(device), config.model.batch_size, config.cache_dir])
    if key not in _benches:
        _benches.clear()
        _benches[key] = bench
    return _benches[key]


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise HiesError(
            f"device is {name!r}, which is not there; use auto, cpu, or a device that torch can see."
        ) from None
    return name
