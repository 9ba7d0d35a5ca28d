"""What every task answers for itself: its three splits, how a model reads them, and how good the answers are."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from hies.errors import HiesError, ParameterError
from hies.storage import digest

if TYPE_CHECKING:  # what computes is imported when it is first called: the knobs of a task need no torch
    from hies.batching import Encoded

_Task = TypeVar("_Task", bound="Task")
Answers = dict[str, np.ndarray]  # rule -> what a model answers to each example, [examples]
SEED_LIMIT = 2**32  # numpy takes seeds below this
SET_ASIDE = 1000  # training examples for selection, at most a tenth of all, where a data set has no split for it


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    Attributes:
        inputs: columns of equal length by name: `text` (and `text_pair`), lists of strings; or `pixel_values`, float32
            [examples, channels, height, width]; or `image`, a list of encoded files (PNG or JPEG) as bytes; or what a
            `PromptTask` puts to a model, lists of whatever JSON can hold.
        labels: int64 class indices, float32 targets, or the right answers as strings, [examples].
    """

    inputs: dict[str, Any]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | np.ndarray) -> Split:
        """Returns the examples at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        columns = {
            name: column[chosen] if isinstance(column, np.ndarray) else [column[i] for i in chosen]
            for name, column in self.inputs.items()
        }
        return Split(columns, self.labels[chosen])

    def first(self, count: int | None) -> Split:
        """Returns the first `count` examples, or as many as there are; None: all."""
        return self.take(range(min(len(self), count or len(self))))


@dataclass(frozen=True)
class Splits:
    """The three splits of a task, which never overlap.

    Attributes:
        train: for fine-tuning and calibration.
        selection: for every choice (epoch, alpha).
        report: for the numbers that are shown.
    """

    train: Split
    selection: Split
    report: Split

    def digest(self) -> str:
        """Returns a digest of every example of every split."""
        hashed = hashlib.sha256()
        for split in (self.train, self.selection, self.report):
            for column in (*split.inputs.values(), split.labels):
                hashed.update(_bytes_of(column))
        return hashed.hexdigest()[:12]


def _bytes_of(column: Any) -> bytes:
    if isinstance(column, np.ndarray):
        return column.tobytes()
    if column and isinstance(column[0], bytes):
        return b"".join(hashlib.sha256(one).digest() for one in column)
    return json.dumps(column).encode()


@dataclass(frozen=True)
class Task(ABC):
    """One benchmark. Subclasses are plain dataclasses whose fields are the knobs of the task.

    A task either has classes or scores (`ClassifierTask`) or asks a language model (`PromptTask`); nobody else needs to
    know which.

    Attributes:
        name: what command lines and rows call it.
        modality: what a model must take, one of `hies.evaluation.models.MODALITIES`.
        metric: a key of `hies.evaluation.metrics.METRICS`.
        finetuned: whether a model is fine-tuned for this task; if not, pretrained weights are asked as they stand.
        numbered: whether classes go by their numbers, which checkpoints keep whatever they call them.
        max_examples: the first N examples of the report split are used (None: all); it is written into every row.
        finetune: what this task changes in the model's fine-tuning settings (`hies.training.Finetuning`).
        after: the task whose checkpoint of the same model is fine-tuned further; None: the pretrained weights are.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    metric: ClassVar[str] = "accuracy"
    finetuned: ClassVar[bool]
    numbered: ClassVar[bool] = False

    max_examples: int | None = None
    finetune: dict[str, Any] = field(default_factory=dict)
    after: Any = None  # Task

    def __post_init__(self) -> None:
        if self.max_examples is not None and self.max_examples < 1:
            raise ParameterError("max_examples", self.max_examples, "it must be at least 1, or null for all")
        seed = getattr(self, "data_seed", 0)  # a knob of those tasks that draw their examples
        if not 0 <= seed < SEED_LIMIT:
            raise ParameterError("data_seed", seed, f"it must be between 0 and {SEED_LIMIT - 1}")

    @abstractmethod
    def identity(self, data_root: Path | None) -> str:
        """Returns a short digest that changes exactly when the data of any split would, cheap enough for every job."""

    def fingerprint(self, data_root: Path | None) -> str:
        """Returns the identity of all data that the results depend on, those of the task before included."""
        identity = self.identity(data_root)
        return identity if self.after is None else digest([identity, self.after.fingerprint(data_root)])

    @abstractmethod
    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns all splits, whole.

        Args:
            data_root: the folder of local copies of Hub data sets; None: the Hub itself.
            cache_dir: the folder for what is costly to make.
        """

    @abstractmethod
    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the classes in the order of their indices; none where answers are scores or texts."""

    def network_options(self, data_root: Path | None, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """Returns what the configuration of a model for this task says, such as its outputs or its number of words."""
        return {}

    def check_network(self, network: Any, data_root: Path | None, checkpoint: str) -> None:
        """Raises HiesError where a classifier does not have one output for each class, or a single one for a score."""
        outputs, labels = network.config.num_labels, max(len(self.label_names(data_root)), 1)
        if self.finetuned and outputs != labels:
            raise HiesError(
                f"The checkpoint {checkpoint!r} has {outputs} outputs, but task={self.name} has {labels} labels; give "
                "one that was fine-tuned for this task."
            )

    def make_processor(self, train: Split, architecture: dict[str, Any], max_length: int) -> Any:
        """Returns the processor of a model that is built from an architecture; None where it needs none."""
        return None

    @abstractmethod
    def encode(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns labelled inputs to calibrate on or to train on.

        Args:
            examples: the examples, their labels in the order of the model's outputs.
            processor: the model's tokenizer, image processor, or both in one; None for images without one.
            max_length: tokens of an example at most.
            image_size: pixels of a side that images are brought to without a processor; None: they stay as they are.
        """

    def prepare(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Any:
        """Returns what `answers` reads of these examples, made once for any number of masks: here the examples."""
        return examples

    @abstractmethod
    def answers(self, network: Any, processor: Any, examples: Any, batch_size: int, precision: str) -> Answers:
        """Returns what a network answers to prepared examples.

        `predictions` are of the kind of the labels; further arrays may hold the answers by other rules, such as `norm`
        (likelihood by the length of the option).
        """

    @property
    def judge(self) -> str | None:
        """The model that grades answers now, part of a run's identity; None where a rule does or no judge is there."""
        return None

    def graded(self, examples: Split, answers: np.ndarray, cache_dir: Path) -> np.ndarray:
        """Returns what the metric is computed from, [examples]: the answers themselves, or a judge's grades of them."""
        return answers

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Returns what rows say besides, such as where calibration examples come from."""
        return {}


class ClassifierTask(Task):
    """A task with classes or scores, for which a classifier is fine-tuned."""

    finetuned = True

    def network_options(self, data_root: Path | None, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """Returns the outputs by name; a single one for a regression task."""
        names = self.label_names(data_root)
        if not names:
            return {"num_labels": 1}
        return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}

    def encode(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns tokens cut to `max_length`, or pixels."""
        from hies.tasks import classifier

        return classifier.encode(examples, processor, max_length, image_size)

    def prepare(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns the encoded examples."""
        return self.encode(examples, processor, max_length, image_size)

    def answers(self, network: Any, processor: Any, examples: Encoded, batch_size: int, precision: str) -> Answers:
        """Returns `predictions`: class indices (int64), or scores (float32) where the model has one output."""
        from hies.tasks import classifier

        return {"predictions": classifier.predict(network, examples, batch_size, precision)}


class PromptTask(Task):
    """A task that is put to a language model as it stands: no classifier, and no fine-tuning for it.

    Some also train the models that are built from an architecture, on their `train` split (`Model.pretrain_task`).
    """

    finetuned = False

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns none: answers are what the model says."""
        return ()

    def make_processor(self, train: Split, architecture: dict[str, Any], max_length: int) -> Any:
        """Raises HiesError: most of these tasks train no model. Those that do return its tokenizer or processor."""
        raise HiesError(f"task={self.name} trains no model; set model.pretrain_task to a task that does, such as docs.")


def declare(base: type[_Task], name: str, meaning: str, **declared: Any) -> type[_Task]:
    """Returns a task that differs from its base in class attributes alone; `meaning` is its docstring."""
    return type(name, (base,), {"__doc__": meaning, "__module__": base.__module__, "name": name, **declared})
