"""A model on a task: what does not depend on the criterion is computed once, and kept on disk for other jobs."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

from hies.batch_size import Batches, is_out_of_memory
from hies.batching import Batch, Encoded, encode
from hies.efficiency.cost import Cost, CostModel, count, measure_cost
from hies.errors import HiesError, UnsupportedModelError
from hies.evaluation import metrics
from hies.evaluation.label_order import found_label_order
from hies.evaluation.models import PROCESSORS, Model, check_fit, checkpoint_path, identity_of, load_weights
from hies.evaluation.outcomes import Outcome, Tally, others
from hies.evaluation.predictions import example_losses, predict
from hies.heads.attention import Site, find_sites, masked
from hies.heads.projections import find_projections
from hies.heads.sites import Removed
from hies.methods import Calibration, Method
from hies.precision import computing
from hies.pruning.removal import prune
from hies.runs import files as results
from hies.scoring.arrays import from_arrays, to_arrays
from hies.scoring.calibration_pass import collect
from hies.scoring.statistics import Statistics, passes_of, searches
from hies.storage import cached, cached_arrays, check_checksums, digest, write_checksums
from hies.tasks.base import PromptTask, Split, Splits, Task
from hies.training.loop import finetune

Chosen = TypeVar("Chosen")
Result = TypeVar("Result")


class Workbench:
    """Lazily loads a model fine-tuned for a task, and answers for it; nothing it hands out is changed by a job."""

    def __init__(
        self,
        model: Model,
        task: Task,
        data_root: Path | None,
        cache_dir: Path,
        device: torch.device,
        tally: Tally | None = None,
    ) -> None:
        check_fit(model, task)
        self.model, self.task, self.device = model, task, device
        self.tally = tally or Tally()
        self._encoded: dict[tuple[str, int | None], Encoded] = {}
        self._calibrated: dict[tuple[int, int, int], list[Batch]] = {}  # the last calibration set alone
        self._batches = Batches(model.batch_size)
        self.data_root, self.cache_dir = data_root, cache_dir
        self.data = task.fingerprint(data_root)
        self._setting = [results.SCHEMA, results.versions(), device.type]  # what else computed arrays depend on
        self._renewed: set[Path] = set()
        self.fresh = False  # compute again what is asked for, once, whatever lies in the cache
        self.remove = False  # answer with the heads cut out of a copy; the answers are those of the masked model
        self.identity: dict[str, Any] = {
            "model": model.identity(task),
            "task": task.name,
            "data": self.data,
            "max_examples": task.max_examples,
        }

    @cached_property
    def splits(self) -> Splits:
        """The task's examples, the report split cut to `max_examples`."""
        splits = self.task.load(self.data_root, self.cache_dir)
        shown = range(min(len(splits.report), self.task.max_examples or len(splits.report)))
        return replace(splits, report=splits.report.take(shown))

    @cached_property
    def processor(self) -> Any:
        """What turns texts and pictures into a model's inputs; None for images that are prepared already."""
        if "pixel_values" in self.splits.train.inputs:
            return None
        if not isinstance(self.task, PromptTask) or self.model.architecture is None:
            return self.model.processor(self.task)
        if self._home is not self:
            return self._home.processor
        path = checkpoint_path(self.model, self.task, self.data, self.cache_dir)
        if path.exists():
            return load_weights(PROCESSORS[self.model.modality], str(path))
        return self.task.make_processor(self.splits.train, self.model.architecture, self.model.max_length)

    @cached_property
    def _home(self) -> "Workbench":
        """Where the weights of a model for prompts are trained that is built from an architecture."""
        assert isinstance(self.task, PromptTask)
        home = self.model.home_of(self.task)
        if home is self.task:
            return self
        return Workbench(self.model, home, self.data_root, self.cache_dir, self.device, self.tally)

    @cached_property
    def checkpoint(self) -> str:
        """Hub name or folder of the model fine-tuned for the task; made here if the model names none."""
        if self.task.name in self.model.checkpoint:
            return self.model.checkpoint[self.task.name]
        if isinstance(self.task, PromptTask):
            if self.model.architecture is None:
                return self.model.folder_of_weights()
            if self._home is not self:
                return self._home.checkpoint
        path = checkpoint_path(self.model, self.task, self.data, self.cache_dir)
        return cached(path, self._finetuned, self._save, _intact)

    @cached_property
    def label_order(self) -> list[int] | None:
        """Which output of the model stands for each label of the task; None: the outputs are in the task's order."""
        if self.task.name not in self.model.checkpoint:
            return None
        given = self.model.label_order.get(self.task.name)
        return found_label_order(self.task, self.network, self._raw_answers, self.labels("selection"), given)

    def _raw_answers(self) -> np.ndarray:
        """What the model's outputs say on the selection split, not yet brought into the order of the task's labels."""
        tokens = encode(self.splits.selection, self.processor, self.model.max_length)
        return self._batches.fitting(lambda size: predict(self.network, tokens, size, self.model.precision))

    @cached_property
    def checkpoint_identity(self) -> str:
        """What tells this checkpoint from others: its Hub name, or a digest of its weights."""
        return identity_of(self.checkpoint)

    @cached_property
    def content(self) -> str:
        """A digest of all examples, for rows; unlike `data` it is made from what was really loaded."""
        return self.splits.digest()

    @property
    def heads_total(self) -> int:
        """Heads of the whole model."""
        return sum(site.heads for site in self.sites.values())

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The sites of the model that heads may be removed from (`model.sites`), found on one example."""
        return self._sites_of(self.network)

    def prunable_sites(self) -> dict[str, Site]:
        """The sites, all of whose heads can be cut out; known before a missing checkpoint is made.

        Raises:
            UnsupportedModelError: the weights of a site cannot be cut.
        """
        network = self._structure()
        sites = self.sites if "network" in vars(self) else self._sites_of(network)
        for site in sites:
            find_projections(network, site)
        return sites

    def _structure(self) -> PreTrainedModel:
        """The model, or what it is built like as long as its checkpoint is not made."""
        made = self.task.name in self.model.checkpoint
        made = made or checkpoint_path(self.model, self.task, self.data, self.cache_dir).exists()
        if isinstance(self.task, PromptTask):
            made = made or self.model.architecture is None or self._home is not self
        return self.network if made else self.model.build(self.task, processor=self.processor)

    def _sites_of(self, network: PreTrainedModel) -> dict[str, Site]:
        example = self.encoded("report", 1).batch([0])
        found = find_sites(network, {name: value.to(network.device) for name, value in example.items()})
        return self._chosen(found)

    def _chosen(self, by_site: dict[str, Chosen]) -> dict[str, Chosen]:
        """What concerns the sites that `model.sites` chooses."""
        pattern = self.model.sites
        chosen = {name: value for name, value in by_site.items() if pattern is None or re.search(pattern, name)}
        if not chosen:
            raise HiesError(f"model.sites is {pattern!r}, which is found in no site; there are {', '.join(by_site)}.")
        return chosen

    @cached_property
    def network(self) -> PreTrainedModel:
        """The fine-tuned model on its device, in evaluation mode."""
        network = self.model.load(self.checkpoint)
        if isinstance(self.task, PromptTask):
            return network.to(self.device).eval()  # type: ignore[arg-type]
        outputs, labels = network.config.num_labels, max(len(self.task.label_names()), 1)
        if outputs != labels:
            raise HiesError(
                f"The checkpoint {self.checkpoint!r} has {outputs} outputs, but task={self.task.name} has {labels} "
                "labels; give one that was fine-tuned for this task."
            )
        if self.model.modality == "text" and network.config.pad_token_id is None:
            network.config.pad_token_id = self.processor.pad_token_id or 0  # as the batches are padded
        return network.to(self.device).eval()  # type: ignore[arg-type]

    @cached_property
    def cost(self) -> CostModel | None:
        """Parameters and FLOPs for one example of full length; None for an architecture whose weights are not found."""
        return measure_cost(self.network, self._longest_example())

    def _longest_example(self) -> Batch:
        """One example of full length, without its label."""
        example: Batch = {
            name: value for name, value in self.encoded("report", 1).batch([0]).items() if name != "labels"
        }
        if self.model.modality in ("text", "language"):
            longest = getattr(self.network.config, "max_position_embeddings", None) or self.model.max_length
            shape = (1, min(self.model.max_length, longest))
            example = {
                "input_ids": torch.zeros(shape, dtype=torch.int64),
                "attention_mask": torch.ones(shape, dtype=torch.int64),
            }
        return {name: value.to(self.device) for name, value in example.items()}

    def statistics(self, need: frozenset[str], seed: int, size: int, removed: Removed | None = None) -> Statistics:
        """Calibration statistics of `size` training examples drawn with `seed`, the `removed` heads masked."""
        if self.model.sites is not None and (among_all := searches(need)):
            raise HiesError(f"criterion={among_all[0].name} searches among all heads; leave model.sites out.")
        # One pass gives importance and entropy together, so that all criteria of a sweep share it.
        need = need | {"his", "ae"} if need & {"his", "ae"} else need
        asked = [self.identity["model"], self.task.name, self.data, sorted(need), seed, size, removed or {}]
        passes = self.scoring_passes(need, size)

        def build() -> dict[str, np.ndarray]:
            return to_arrays(self._collect(need, seed, size, removed or {}))

        found = from_arrays(self._kept("statistics", asked, build, passes))
        return found if self.model.sites is None else found.of_sites(self._chosen(found.heads))

    def scoring_passes(self, need: frozenset[str], size: int) -> int:
        """Forward passes of an example that these statistics of `size` calibration examples take."""
        return size * passes_of(need, self.heads_total)

    def predictions(self, removed: Removed, split_name: str = "report", examples: int | None = None) -> np.ndarray:
        """The task's answers with the `removed` heads masked, [examples], kept by mask.

        split_name: `report` or `selection`. examples: at most so many of the split, its first; None: all.
        """
        self.tally.asked += 1
        return self._evaluation(removed, split_name, examples)["predictions"]

    def outcome(self, removed: Removed) -> Outcome:
        """The model with the `removed` heads masked, its cost that of the model without them."""
        self.tally.asked += 1
        found = self._evaluation(removed, "report", None)
        cost = self.cost.without(removed) if self.cost else None
        return Outcome(found["predictions"], cost, float(found["seconds"]), others=others(found))

    def outcome_of(self, method: Method, ratio: float, seed: int, size: int) -> Outcome:
        """The model pruned by a method at `ratio`, with `size` calibration examples drawn with `seed`."""
        asked = [self.identity, "report", method.name, method.knobs, ratio, seed, size]
        self.tally.asked += 1
        self.tally.distinct.add(digest(asked, 16))
        passes = len(self.splits.report)
        found = self._kept("predictions", asked, lambda: self._apply(method, ratio, seed, size), passes)
        cost = Cost(int(found["parameters"]), int(found["flops"]))
        seconds = float(found["seconds"]), float(found["prune_seconds"])
        return Outcome(found["predictions"], cost, *seconds, others=others(found))

    def _apply(self, method: Method, ratio: float, seed: int, size: int) -> dict[str, np.ndarray]:
        self.tally.evaluated += 1
        return self._on_calibration(seed, size, lambda batches: self._applied(method, ratio, seed, batches))

    def _applied(self, method: Method, ratio: float, seed: int, batches: list[Batch]) -> dict[str, np.ndarray]:
        train = self.encoded("train") if method.tunes else None
        calibration = Calibration(batches, train, seed, self.model.precision)
        self.encoded("report")  # model and tokens are loaded before the clock starts
        started = time.perf_counter()
        with method.pruned(self.network, calibration, ratio) as small:
            ready = time.perf_counter()
            answers = self._answers(small)
            done = time.perf_counter()
            cost = count(small, self._longest_example())
        return {
            **answers,
            "parameters": np.array(cost.parameters),
            "flops": np.array(cost.flops),
            "prune_seconds": np.array(ready - started),
            "seconds": np.array(done - ready),
        }

    def check(self, method: Method) -> None:
        """Raise UnsupportedModelError where a method cannot be applied; known before a checkpoint is made."""
        if not method.removes_heads:
            if self.model.sites is not None:
                raise UnsupportedModelError("it cuts what all layers share; leave model.sites out.")
            method.check(self._structure())

    def _evaluation(self, removed: Removed, split_name: str, examples: int | None) -> dict[str, np.ndarray]:
        asked = [self.identity, split_name, examples, removed]
        self.tally.distinct.add(digest(asked, 16))
        passes = min(len(self.labels(split_name)), examples or len(self.labels(split_name)))

        def build() -> dict[str, np.ndarray]:
            self.tally.evaluated += 1
            self.encoded(split_name, examples)  # model and tokens are loaded before the clock starts
            started = time.perf_counter()
            answers = self._predict(removed, split_name, examples)
            return {**answers, "seconds": np.array(time.perf_counter() - started)}

        return self._kept("predictions", asked, build, passes)

    def quality(self, removed: Removed, split_name: str, examples: int | None = None) -> float | None:
        """Quality in percent on (the first `examples` of) a split, the `removed` heads masked; None if undefined."""
        return self.measure(self.predictions(removed, split_name, examples), split_name)[1]

    def measure(self, answers: np.ndarray, split_name: str = "report") -> tuple[float | None, float | None]:
        """The raw metric and the quality in percent of answers to a split's first examples; None where undefined."""
        labels = self.labels(split_name)[: len(answers)]
        if isinstance(self.task, PromptTask):
            answers = self.task.graded(self._first(split_name, len(answers)), answers, self.cache_dir)
        return metrics.quality(self.task.metric, labels, answers)

    def labels(self, split_name: str) -> np.ndarray:
        """The right answers of a split, [examples]."""
        return getattr(self.splits, split_name).labels

    def calibration_loss(self, removed: Removed, seed: int, size: int) -> float:
        """Mean loss over the calibration set with the `removed` heads masked, in the units of the loss."""
        asked = [self.identity["model"], self.task.name, self.data, seed, size, removed]

        def build() -> dict[str, np.ndarray]:
            with masked(self.network, removed):
                return {"losses": self._on_calibration(seed, size, partial(example_losses, self.network))}

        return float(self._kept("losses", asked, build, size)["losses"].mean())

    def _kept(
        self, kind: str, asked: list[Any], build: Callable[[], dict[str, np.ndarray]], passes: int
    ) -> dict[str, np.ndarray]:
        """Arrays from the cache, or built (with so many forward passes of an example) and put there."""
        path = self.cache_dir / kind / f"{digest([self._setting, asked], 16)}.npz"
        self.tally.needed[f"{kind}/{path.stem}"] = passes
        if self.fresh and path not in self._renewed:
            path.unlink(missing_ok=True)
        self._renewed.add(path)
        return cached_arrays(path, build)

    def _collect(self, need: frozenset[str], seed: int, size: int, removed: Removed) -> Statistics:
        # A search is evaluations, of thousands of masks, on the calibration set.
        precision = self.model.precision if searches(need) else "float32"

        def scored(batches: list[Batch]) -> Statistics:
            with computing(precision, self.device):
                return collect(self.network, batches, need, checkpoint=self.model.checkpointing)

        with masked(self.network, removed):
            return self._on_calibration(seed, size, scored)

    def _on_calibration(self, seed: int, size: int, work: Callable[[list[Batch]], Result]) -> Result:
        """What `work` makes of the calibration set, in batches that fit into the memory."""
        return self._batches.fitting(lambda together: work(self.calibration(seed, size, together)))

    def check_size(self, size: int) -> None:
        """Raise HiesError where there are not so many training examples to calibrate on."""
        there = len(self.splits.train)
        if not 1 <= size <= there:
            raise HiesError(f"calibration.size is {size}; for task={self.task.name} it can be 1 to {there}.")

    def calibration(self, seed: int, size: int, together: int) -> list[Batch]:
        """`size` training examples drawn with `seed`, on the device, in batches of at most so many of like length."""
        train = self.splits.train
        self.check_size(size)
        if (seed, size, together) not in self._calibrated:  # choosing alpha asks for the same set once a mask
            chosen = np.random.default_rng(seed).permutation(len(train))[:size]
            examples = self._encode(train.take(chosen))
            batches = [batch for _, batch in examples.batches(together, self.device)]
            self._calibrated = {(seed, size, together): batches}
        return self._calibrated[seed, size, together]

    def _predict(self, removed: Removed, split_name: str, examples: int | None) -> dict[str, np.ndarray]:
        if self.remove and removed:
            return self._answers(prune(self.network, removed), split_name, examples)
        with masked(self.network, removed):
            return self._answers(self.network, split_name, examples)

    def answers(self, network: torch.nn.Module, split_name: str = "report", examples: int | None = None) -> np.ndarray:
        """What a network with the outputs of this one answers on (the first `examples` of) a split, [examples]."""
        return self._answers(network, split_name, examples)["predictions"]

    def _answers(
        self, network: torch.nn.Module, split_name: str = "report", examples: int | None = None
    ) -> dict[str, np.ndarray]:
        if isinstance(self.task, PromptTask):
            task, asked = self.task, self._first(split_name, examples)
            return self._batches.fitting(
                lambda size: task.answers(network, self.processor, asked, size, self.model.precision)
            )
        encoded = self.encoded(split_name, examples)
        answers = self._batches.fitting(lambda size: predict(network, encoded, size, self.model.precision))
        return {"predictions": answers if self.label_order is None else np.argsort(self.label_order)[answers]}

    def encoded(self, split_name: str, examples: int | None = None) -> Encoded:
        """(The first `examples` of) a split as the model takes it, its labels in the order of the model's outputs."""
        key = (split_name, examples)
        if key not in self._encoded:
            self._encoded[key] = self._encode(self._first(split_name, examples))
        return self._encoded[key]

    def _first(self, split_name: str, examples: int | None) -> Split:
        split = getattr(self.splits, split_name)
        return split.take(range(min(len(split), examples or len(split))))

    def _encode(self, examples: Split) -> Encoded:
        if isinstance(self.task, PromptTask):
            return self.task.encode(examples, self.processor, self.model.max_length)
        if self.label_order is not None:
            examples = replace(examples, labels=np.array(self.label_order)[examples.labels])
        size = (self.model.architecture or {}).get("image_size")  # where no image processor knows it
        return encode(examples, self.processor, self.model.max_length, size)

    @property
    def _before(self) -> "Workbench":
        return Workbench(self.model, self.task.after, self.data_root, self.cache_dir, self.device, self.tally)

    def _finetuned(self) -> PreTrainedModel:
        start = None if self.task.after is None else self._before.checkpoint
        network = self.model.build(self.task, start, self.processor)
        network.to(self.device)  # type: ignore[arg-type]
        selection, labels = self.encoded("selection"), self.labels("selection")

        def validate(trained: torch.nn.Module) -> float:
            if isinstance(self.task, PromptTask):
                answers = self._answers(trained, "selection")["predictions"]
            else:
                answers = self._batches.fitting(lambda size: predict(trained, selection, size, self.model.precision))
            return metrics.quality(self.task.metric, labels, answers)[1] or 0.0

        title = f"fine-tuning {self.model.name} on {self.task.name}"
        settings = self.model.finetuning(self.task)
        try:
            finetune(network, self.encoded("train"), validate, settings, title, self.model.precision)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise HiesError(
                f"Out of memory while {title}; model.finetune.batch_size is {settings.batch_size}, give a smaller one "
                "(it is not halved for you, since the fine-tuned model depends on it)."
            ) from error
        return network

    def _save(self, folder: Path, network: PreTrainedModel) -> None:
        network.save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        write_checksums(folder)


def _intact(checkpoint: Path) -> str:
    """The folder of a checkpoint whose weights are those that were written; ValueError where they are not."""
    check_checksums(checkpoint)
    return str(checkpoint)
