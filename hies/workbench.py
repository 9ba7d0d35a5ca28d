"""A model on a task: what does not depend on the criterion is computed once, and kept on disk for other jobs."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hies import metrics
from hies.attention import Site, find_sites, masked
from hies.batching import Batch, Encoded, encode
from hies.cache import cached, digest, read_arrays, write_arrays
from hies.cost import CostModel, measure_cost
from hies.errors import HiesError
from hies.evaluation import predict
from hies.models import HEADS, Model, check_fit, checkpoint_path, identity_of, load_weights
from hies.sites import Removed, join, split
from hies.statistics import Statistics, collect
from hies.tasks.base import Splits, Task
from hies.training import finetune


class Workbench:
    """Lazily loads a model fine-tuned for a task, and answers for it; nothing it hands out is changed by a job."""

    def __init__(self, model: Model, task: Task, data_root: Path | None, cache_dir: Path, device: torch.device) -> None:
        check_fit(model, task)
        self.model, self.task, self.device = model, task, device
        self.data_root, self.cache_dir = data_root, cache_dir
        self.data = task.identity(data_root)
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
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """What turns texts into tokens; None for images."""
        return self.model.tokenizer()

    @cached_property
    def report(self) -> Encoded:
        """The report split as the model takes it."""
        return self._encode("report")

    @cached_property
    def checkpoint(self) -> str:
        """Hub name or folder of the model fine-tuned for the task; made here if the model names none."""
        if self.task.name in self.model.checkpoint:
            return self.model.checkpoint[self.task.name]
        path = checkpoint_path(self.model, self.task, self.data, self.cache_dir)
        return cached(path, self._finetuned, self._save, str)

    @cached_property
    def checkpoint_identity(self) -> str:
        """What tells this checkpoint from others: its Hub name, or a digest of its weights."""
        return identity_of(self.checkpoint)

    @property
    def heads_total(self) -> int:
        """Heads of the whole model."""
        return sum(site.heads for site in self.sites.values())

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The sites of the model, found on one example."""
        example = self.report.batch([0])
        return find_sites(self.network, {name: value.to(self.device) for name, value in example.items()})

    @cached_property
    def network(self) -> PreTrainedModel:
        """The fine-tuned model on its device, in evaluation mode."""
        network = load_weights(HEADS[self.model.modality], self.checkpoint)
        outputs, labels = network.config.num_labels, max(len(self.task.label_names()), 1)
        if outputs != labels:
            raise HiesError(
                f"The checkpoint {self.checkpoint!r} has {outputs} outputs, but task={self.task.name} has {labels} "
                "labels; give one that was fine-tuned for this task."
            )
        return network.to(self.device).eval()

    @cached_property
    def cost(self) -> CostModel | None:
        """Parameters and FLOPs for one example of full length; None for an architecture whose weights are not found."""
        example: Batch = {name: value for name, value in self.report.batch([0]).items() if name != "labels"}
        if self.model.modality == "text":
            shape = (1, min(self.model.max_length, self.network.config.max_position_embeddings))
            example = {
                "input_ids": torch.zeros(shape, dtype=torch.int64),
                "attention_mask": torch.ones(shape, dtype=torch.int64),
            }
        return measure_cost(self.network, {name: value.to(self.device) for name, value in example.items()})

    def statistics(self, need: frozenset[str], seed: int, size: int, removed: Removed | None = None) -> Statistics:
        """Calibration statistics of `size` training examples drawn with `seed`, the `removed` heads masked."""
        # One pass gives importance and entropy together, so that all criteria of a sweep share it.
        need = need | {"his", "ae"} if need & {"his", "ae"} else need
        key = digest([self.identity["model"], self.task.name, self.data, sorted(need), seed, size, removed or {}], 16)
        path = self.cache_dir / "statistics" / f"{key}.npz"
        return _from_arrays(
            cached(path, lambda: _to_arrays(self._collect(need, seed, size, removed or {})), write_arrays, read_arrays)
        )

    def predictions(self, removed: Removed) -> np.ndarray:
        """The answers on the report split with the `removed` heads masked, [examples]; kept by mask."""
        key = digest([self.identity, removed], 16)
        path = self.cache_dir / "predictions" / f"{key}.npz"
        return cached(path, lambda: {"predictions": self._predict(removed)}, write_arrays, read_arrays)["predictions"]

    def _collect(self, need: frozenset[str], seed: int, size: int, removed: Removed) -> Statistics:
        train = self.splits.train
        if not 1 <= size <= len(train):
            raise HiesError(f"calibration.size is {size}; for task={self.task.name} it can be 1 to {len(train)}.")
        chosen = np.random.default_rng(seed).permutation(len(train))[:size]
        examples = encode(train.take(chosen), self.tokenizer, self.model.max_length)
        batches = [batch for _, batch in examples.batches(self.model.batch_size, self.device)]
        with masked(self.network, removed):
            return collect(self.network, batches, need)

    def _predict(self, removed: Removed) -> np.ndarray:
        with masked(self.network, removed):
            return predict(self.network, self.report, self.model.batch_size)

    def _encode(self, split_name: str) -> Encoded:
        return encode(getattr(self.splits, split_name), self.tokenizer, self.model.max_length)

    def _finetuned(self) -> PreTrainedModel:
        network = self.model.build(self.task)
        network.to(self.device)  # type: ignore[arg-type]
        selection, labels = self._encode("selection"), self.splits.selection.labels

        def validate(trained: torch.nn.Module) -> float:
            answers = predict(trained, selection, self.model.batch_size)
            return metrics.quality(self.task.metric, labels, answers)[1] or 0.0

        title = f"fine-tuning {self.model.name} on {self.task.name}"
        finetune(network, self._encode("train"), validate, self.model.finetuning(self.task), title)
        return network

    def _save(self, folder: Path, network: PreTrainedModel) -> None:
        network.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def _to_arrays(statistics: Statistics) -> dict[str, np.ndarray]:
    arrays = {
        "sites": np.array(list(statistics.heads)),
        "heads": np.array(list(statistics.heads.values())),
        "examples": np.array(statistics.examples),
    }
    kinds = ("gradient", "entropy", "weight_norm")
    return arrays | {kind: join(tensors).numpy() for kind in kinds if (tensors := getattr(statistics, kind))}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Statistics:
    heads = {str(site): int(count) for site, count in zip(arrays["sites"], arrays["heads"], strict=True)}
    like = {site: torch.empty(count) for site, count in heads.items()}
    kinds = arrays.keys() & {"gradient", "entropy", "weight_norm"}
    tensors = {kind: split(torch.from_numpy(arrays[kind]), like) for kind in kinds}
    return Statistics(heads, int(arrays["examples"]), **tensors)
