"""A fine-tuned model on a task, scored, pruned and evaluated; what does not depend on the method is computed once."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hies.batching import Batch
from hies.efficiency.cost import Cost, CostModel, count, measure_cost
from hies.errors import HiesError, ParameterError, UnsupportedModelError
from hies.evaluation import metrics
from hies.evaluation.calibration import CalibrationSource
from hies.evaluation.checkpoints import TaskModel
from hies.evaluation.evaluation import Evaluation, PassCounter
from hies.evaluation.models import PRUNABLE, last_change
from hies.evaluation.positions import positions_of
from hies.heads.attention import Site, find_sites
from hies.heads.masking import masked
from hies.heads.sites import Removed
from hies.methods import Calibration, Method
from hies.precision import computing
from hies.pruning.prunable_sites import PrunableSites, prunable
from hies.pruning.removal import prune
from hies.runs import files as results
from hies.scoring.calibration_pass import collect
from hies.scoring.own_loss import example_losses
from hies.scoring.statistics import Statistics, outside_sources, passes_of, searches
from hies.storage import WeightsThere, cached_arrays, digest, sources_of
from hies.tasks.base import TOKENS, Answers

Chosen = TypeVar("Chosen")
Made = TypeVar("Made")


@dataclass(eq=False)
class Evaluator(TaskModel):
    """Answers for a model on a task, with heads masked or removed; statistics and evaluations are kept on disk.

    Attributes:
        counter: of what was asked for and computed.
        fresh: compute again what is asked for, once, whatever lies in the cache.
        remove: answer with the heads cut out of a copy; the answers are those of the masked model.
        calibrate_on: where calibration examples come from.
    """

    counter: PassCounter = field(default_factory=PassCounter)
    fresh: bool = False
    remove: bool = False
    calibrate_on: CalibrationSource = field(default_factory=CalibrationSource)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._calibrated: dict[tuple[Any, ...], list[Batch]] = {}  # the last calibration set alone
        self._setting = [results.SCHEMA, results.versions(), self.device.type]  # what else computed arrays depend on
        self._renewed: set[Path] = set()
        self._weights = self.model.identity(self.task)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the answers depend on, for names in the cache."""
        names = {"model": self._weights, "task": self.task.name}
        return {**names, "data": self.data, "max_examples": self.task.max_examples}

    @cached_property
    def content(self) -> str:
        """A digest of all examples, for rows; of the report split those in use."""
        return self.splits.digest()

    @property
    def heads_total(self) -> int:
        """Heads of the whole model."""
        return sum(site.heads for site in self.sites.values())

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The sites of the model that heads may be removed from (`model.sites`), found on one example."""
        return self._chosen(find_sites(self.network, self._example_for(self.network)))

    @cached_property
    def prunable(self) -> PrunableSites:
        """All sites whose heads can be cut out, and why those of others cannot; needs no checkpoint to be made."""
        network = self.structure()
        return prunable(network, self._example_for(network))

    def prunable_sites(self) -> dict[str, Site]:
        """Returns the sites that `model.sites` chooses, all of whose heads can be cut out.

        Raises:
            UnsupportedModelError: the weights of one of them cannot be cut.
        """
        refused = self.prunable.refused
        chosen = self._chosen({**self.prunable, **dict.fromkeys(refused)})
        if name := next((name for name in chosen if name in refused), None):
            raise UnsupportedModelError(f"The heads of site {name!r} cannot be cut out: {refused[name]}.")
        return {name: self.prunable[name] for name in chosen}

    def _example_for(self, network: PreTrainedModel) -> Batch:
        example = self.encoded("report", 1).batch([0])
        return {name: value.to(network.device) for name, value in example.items()}

    def _chosen(self, by_site: dict[str, Chosen]) -> dict[str, Chosen]:
        """Returns what concerns the sites that `model.sites` chooses."""
        pattern = self.model.sites
        matches = (lambda name: name in self.prunable) if pattern == PRUNABLE else partial(re.search, pattern or "")
        chosen = {name: value for name, value in by_site.items() if matches(name)}
        if not chosen:
            if pattern == PRUNABLE:
                reasons = dict.fromkeys(self.prunable.refused.values())
                raise ParameterError("sites", pattern, f"no head can be cut out: {'; '.join(reasons)}")
            raise ParameterError("sites", pattern, f"it matches no site; there are {', '.join(by_site)}")
        return chosen

    @cached_property
    def cost(self) -> CostModel | None:
        """Parameters and FLOPs for one example of full length; None for an architecture whose weights are not found."""
        return measure_cost(self.network, self._longest_example(), self.sites)

    def _longest_example(self) -> Batch:
        """Returns one example of full length, without its label."""
        if self.model.modality in ("text", "language"):
            declared = getattr(self.network.config, "max_position_embeddings", None)
            lengths = [self.model.max_length, positions_of(self.network), declared]
            tokens = torch.zeros((1, min(filter(None, lengths))), dtype=torch.int64, device=self.device)
            return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        example = self.encoded("report", 1).batch([0])
        return {name: value.to(self.device) for name, value in example.items() if name != "labels"}

    def statistics(self, need: frozenset[str], seed: int, size: int, removed: Removed | None = None) -> Statistics:
        """Returns calibration statistics of `size` training examples drawn with `seed`, the `removed` heads masked."""
        if self.model.sites is not None and (among_all := [*searches(need)]):
            raise HiesError(f"criterion={among_all[0]} searches among all heads; leave model.sites out.")
        # One pass gives importance and entropy together, so that all criteria of a sweep share it.
        need = need | {"his", "ae"} if need & {"his", "ae"} else need
        key = [self._weights, self.task.name, self.data, sorted(need), seed, size, removed or {}]
        key += [*self.calibrate_on.key(self), *outside_sources(need)]
        build = partial(self._collect, need, seed, size, removed or {})
        arrays = self._cached_arrays("statistics", key, build, self.scoring_passes(need, size))
        statistics = Statistics.from_arrays(arrays)
        return statistics if self.model.sites is None else statistics.of_sites(self._chosen(statistics.heads))

    def scoring_passes(self, need: frozenset[str], size: int) -> int:
        """Returns the forward passes of an example that these statistics of `size` calibration examples take."""
        return size * passes_of(need, self.heads_total)

    def predictions(self, removed: Removed, split_name: str = "report", examples: int | None = None) -> np.ndarray:
        """Returns the task's answers with the `removed` heads masked, [examples], kept by mask.

        Args:
            removed: the heads.
            split_name: `report` or `selection`.
            examples: the first N examples of the split; None: all.
        """
        self.counter.asked += 1
        return self._evaluation(removed, split_name, examples)["predictions"]

    def evaluate(self, removed: Removed) -> Evaluation:
        """Returns the model with the `removed` heads masked, its cost that of the model without them."""
        self.counter.asked += 1
        arrays = self._evaluation(removed, "report", None)
        return Evaluation.of(arrays, self.cost.without(removed) if self.cost else None)

    def evaluate_method(self, method: Method, ratio: float, seed: int, size: int) -> Evaluation:
        """Returns the model pruned by a method at `ratio`, with `size` calibration examples drawn with `seed`."""
        key = [self.identity, "report", method.name, method.knobs, ratio, seed, size]
        key += [*self.calibrate_on.key(self), *sources_of(type(method))]
        self.counter.asked += 1
        self.counter.distinct.add(digest(key, 16))
        passes = len(self.splits.report)
        arrays = self._cached_arrays("predictions", key, lambda: self._apply(method, ratio, seed, size), passes)
        return Evaluation.of(arrays, Cost(int(arrays["parameters"]), int(arrays["flops"])))

    def _apply(self, method: Method, ratio: float, seed: int, size: int) -> dict[str, np.ndarray]:
        self.counter.evaluated += 1
        return self._on_calibration(seed, size, lambda batches: self._applied(method, ratio, seed, batches))

    def _applied(self, method: Method, ratio: float, seed: int, batches: list[Batch]) -> dict[str, np.ndarray]:
        train = self.encoded("train") if method.tunes else None
        calibration = Calibration(batches, train, seed, self.model.precision)
        network, _ = self.network, self.prepared("report")  # model and tokens are loaded before the clock starts
        started = time.perf_counter()
        with method.pruned(network, calibration, ratio) as small:
            ready = time.perf_counter()
            answers = self.all_answers(small)
            done = time.perf_counter()
            cost = count(small, self._longest_example())
        numbers = dict(
            parameters=cost.parameters, flops=cost.flops, prune_seconds=ready - started, seconds=done - ready
        )
        return answers | {name: np.array(number) for name, number in numbers.items()}

    def check(self, method: Method) -> None:
        """Raises UnsupportedModelError where a method cannot be applied; known before a checkpoint is made."""
        if not method.removes_heads:
            if self.model.sites is not None:
                raise UnsupportedModelError("it cuts what all layers share; leave model.sites out.")
            method.check(self.structure())

    def _ask(self, network: nn.Module, prepared: Any) -> Answers:
        before = TOKENS.copy()
        answers = super()._ask(network, prepared)
        read = TOKENS - before
        return answers | ({"tokens": np.array([read["computed"], read["plain"]])} if read else {})

    def _evaluation(self, removed: Removed, split_name: str, examples: int | None) -> dict[str, np.ndarray]:
        key = [self.identity, split_name, examples, removed]
        self.counter.distinct.add(digest(key, 16))
        passes = min(len(self.labels(split_name)), examples or len(self.labels(split_name)))

        def build() -> dict[str, np.ndarray]:
            self.counter.evaluated += 1
            network, _ = self.network, self.prepared(split_name, examples)  # before the clock starts
            started = time.perf_counter()
            answers = self._pruned_answers(network, removed, split_name, examples)
            return {**answers, "seconds": np.array(time.perf_counter() - started)}

        return self._cached_arrays("predictions", key, build, passes)

    def quality(self, removed: Removed, split_name: str, examples: int | None = None) -> float | None:
        """Returns the quality in percent on (the first `examples` of) a split; None if undefined."""
        return self.measure(self.predictions(removed, split_name, examples), split_name)[1]

    def measure(self, answers: np.ndarray, split_name: str = "report") -> tuple[float | None, float | None]:
        """Returns the raw metric and the quality in percent of answers to a split's first examples; None: undefined."""
        labels = self.labels(split_name)[: len(answers)]
        graded = self.task.graded(self._first(split_name, len(answers)), answers, self.cache_dir)
        return metrics.quality(self.task.metric, labels, graded)

    def calibration_loss(self, removed: Removed, seed: int, size: int) -> float:
        """Returns the mean loss over the calibration set with the `removed` heads masked, in the units of the loss."""
        key = [self._weights, self.task.name, self.data, seed, size, removed, *self.calibrate_on.key(self)]

        def losses(batches: list[Batch]) -> np.ndarray:
            with masked(self.network, removed):
                return example_losses(self.network, batches)

        def build() -> dict[str, np.ndarray]:
            return {"losses": self._on_calibration(seed, size, losses)}

        return float(self._cached_arrays("losses", key, build, size)["losses"].mean())

    def _cached_arrays(
        self, kind: str, key: list[Any], build: Callable[[], dict[str, np.ndarray]], passes: int
    ) -> dict[str, np.ndarray]:
        """Returns arrays from the cache, or builds them, which takes `passes` forward passes of an example."""
        path = self.cache_dir / kind / f"{digest([self._setting, key], 16)}.npz"
        self.counter.needed[f"{kind}/{path.stem}"] = passes
        fresh = self.fresh and path not in self._renewed
        self._renewed.add(path)
        return cached_arrays(path, build, fresh, self._trained_weights)

    @cached_property
    def _trained_weights(self) -> WeightsThere | None:
        """The weights that are there, where training makes them; others are in the names of what is computed.

        Names have how they are trained alone, which gives other weights on another processor.
        """
        if not self.is_trained_here:
            return None
        return WeightsThere(self.checkpoint_identity, last_change(Path(self.checkpoint)))

    def _collect(self, need: frozenset[str], seed: int, size: int, removed: Removed) -> dict[str, np.ndarray]:
        # A search is evaluations, of thousands of masks, on the calibration set.
        precision = self.model.precision if searches(need) else "float32"

        def scored(batches: list[Batch]) -> dict[str, np.ndarray]:
            with masked(self.network, removed), computing(precision, self.device):
                return collect(self.network, batches, need, checkpoint=self.model.checkpointing).to_arrays()

        return self._on_calibration(seed, size, scored)

    def _on_calibration(self, seed: int, size: int, work: Callable[[list[Batch]], Made]) -> Made:
        """Returns what `work` makes of the calibration set, in batches that fit into the memory."""
        return self._batch_size.retry_on_oom(lambda together: work(self.calibration(seed, size, together)))

    def check_size(self, size: int) -> None:
        """Raises ParameterError where there are fewer examples to calibrate on."""
        if not 1 <= size <= (there := len(self.calibrate_on.pool(self))):
            raise ParameterError("size", size, f"for task={self.task.name} it can be 1 to {there}")

    def calibration(self, seed: int, size: int, together: int) -> list[Batch]:
        """Returns `size` examples of `calibrate_on` drawn with `seed`, on the device, in batches of like length."""
        self.check_size(size)
        key = (self.calibrate_on, seed, size, together)
        if key not in self._calibrated:  # choosing alpha asks for the same set once a mask
            examples = self.encode(self.calibrate_on.drawn(self, seed, size)).padded_for(self.network)
            self._calibrated = {key: [batch for _, batch in examples.batches(together, self.device)]}
        return self._calibrated[key]

    def _pruned_answers(
        self, network: PreTrainedModel, removed: Removed, split_name: str, examples: int | None
    ) -> Answers:
        if self.remove and removed:
            return self.all_answers(prune(network, removed), split_name, examples)
        with masked(network, removed):
            return self.all_answers(network, split_name, examples)
