"""What every task gives: three splits that do not overlap, its labels, and the way its quality is measured."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hies.cache import digest
from hies.errors import HiesError


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    inputs: columns of equal length by name, either `text` (and `text_pair`), lists of strings, or `pixel_values`,
    float32 [examples, channels, height, width]. labels: int64 class indices or float32 targets, [examples].
    """

    inputs: dict[str, Any]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """The examples at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        columns = {
            name: column[chosen] if isinstance(column, np.ndarray) else [column[i] for i in chosen]
            for name, column in self.inputs.items()
        }
        return Split(columns, self.labels[chosen])


@dataclass(frozen=True)
class Splits:
    """train: fine-tuning and calibration; selection: every choice (epoch, alpha); report: the numbers shown."""

    train: Split
    selection: Split
    report: Split

    def digest(self) -> str:
        """A digest of every example of every split."""
        found = hashlib.sha256()
        for split in (self.train, self.selection, self.report):
            for column in (*split.inputs.values(), split.labels):
                found.update(column.tobytes() if isinstance(column, np.ndarray) else json.dumps(column).encode())
        return found.hexdigest()[:12]


@dataclass(frozen=True)
class Task(ABC):
    """One benchmark. Subclasses are plain dataclasses whose fields are the knobs of `conf/task/<name>.yaml`.

    max_examples: at most so many examples of the report split, its first (None: all); it is written into every row.
    finetune: what this task changes in the model's fine-tuning settings (`hies.training.Finetuning`).
    after: the task whose checkpoint of the same model is fine-tuned further; None: the pretrained weights are.
    """

    name: ClassVar[str]
    modality: ClassVar[str]  # "text" or "image"
    metric: ClassVar[str] = "accuracy"  # a key of hies.metrics.METRICS

    max_examples: int | None = None
    finetune: dict[str, Any] = field(default_factory=dict)
    after: Any = None  # Task

    def __post_init__(self) -> None:
        if self.max_examples is not None and self.max_examples < 1:
            raise HiesError(f"task.max_examples is {self.max_examples}; it must be at least 1, or null for all.")

    @abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """The classes in the order of their indices; empty for a regression task."""

    @abstractmethod
    def identity(self, data_root: Path | None) -> str:
        """A short digest that changes exactly when the data of any split would, cheap enough to ask every time."""

    def fingerprint(self, data_root: Path | None) -> str:
        """The identity of all data that the results depend on, those of the task before included."""
        own = self.identity(data_root)
        return own if self.after is None else digest([own, self.after.fingerprint(data_root)])

    @abstractmethod
    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """All splits, whole; `data_root` holds local copies of Hub data sets, `cache_dir` what is costly to make."""
