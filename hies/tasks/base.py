"""What every task gives: three splits that do not overlap, its labels, and the way its quality is measured."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hies.errors import HiesError
from hies.storage import digest


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    inputs: columns of equal length by name: `text` (and `text_pair`), lists of strings; or `pixel_values`, float32
    [examples, channels, height, width]; or `image`, a list of encoded files (PNG or JPEG) as bytes; or what a
    `PromptTask` puts to a model, lists of whatever JSON can hold. labels: int64 class indices, float32 targets, or the
    right answers as strings, [examples].
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
                found.update(_bytes_of(column))
        return found.hexdigest()[:12]


def _bytes_of(column: Any) -> bytes:
    if isinstance(column, np.ndarray):
        return column.tobytes()
    if column and isinstance(column[0], bytes):
        return b"".join(hashlib.sha256(one).digest() for one in column)
    return json.dumps(column).encode()


@dataclass(frozen=True)
class Task(ABC):
    """One benchmark. Subclasses are plain dataclasses whose fields are the knobs of `conf/task/<name>.yaml`.

    max_examples: at most so many examples of the report split, its first (None: all); it is written into every row.
    finetune: what this task changes in the model's fine-tuning settings (`hies.training.Finetuning`).
    after: the task whose checkpoint of the same model is fine-tuned further; None: the pretrained weights are.
    """

    name: ClassVar[str]
    modality: ClassVar[str]  # "text" or "image"
    metric: ClassVar[str] = "accuracy"  # a key of hies.evaluation.metrics.METRICS
    numbered: ClassVar[bool] = False  # classes go by their numbers, which checkpoints keep whatever they call them

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


@dataclass(frozen=True)
class PromptTask(Task):
    """A task that is put to a language model as it stands: no classifier, and no fine-tuning for it.

    A home task (`Model.home`) also trains the models that are built from an architecture, on its `train` split.
    """

    def label_names(self) -> tuple[str, ...]:
        """None: answers are what the model says."""
        return ()

    def make_processor(self, train: Split, architecture: dict[str, Any], max_length: int) -> Any:
        """The tokenizer (or processor) of a model that is trained here.

        Raises:
            HiesError: the task trains no model.
        """
        raise HiesError(f"task={self.name} trains no model; set model.home to a task that does, such as docs.")

    def options(self, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """What a configuration takes from the processor, such as the number of words."""
        return {}

    @abstractmethod
    def encode(self, examples: Split, processor: Any, max_length: int) -> Any:
        """Labelled inputs (`hies.batching.Encoded`) to calibrate on or to train on; padding has the label -100."""

    @abstractmethod
    def answers(
        self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str
    ) -> dict[str, np.ndarray]:
        """What the model answers: `predictions`, [examples], of the kind of the labels.

        Further arrays may hold the answers by other rules, such as `norm` (likelihood by length of the option).
        """

    @property
    def judge(self) -> str | None:
        """The model that grades answers now, part of a run's identity; None where a rule does or no judge is there."""
        return None

    def graded(self, examples: Split, answers: np.ndarray, cache_dir: Path) -> np.ndarray:
        """What the metric is computed from, [examples]: the answers themselves, or a judge's grades of them."""
        return answers

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """What rows say besides, such as where calibration examples come from."""
        return {}
