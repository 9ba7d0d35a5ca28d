"""What every task answers for itself: its three splits, how a model reads them, and how good the answers are."""

from __future__ import annotations

import contextlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from math import inf
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from hies.errors import HiesError, ParameterError
from hies.storage import digest, sources_of
from hies.tasks import checks
from hies.tasks.splits import Split, Splits

if TYPE_CHECKING:  # what computes is imported when it is first called: the knobs of a task need no torch
    from hies.batching import Encoded

_Task = TypeVar("_Task", bound="Task")
Answers = dict[str, np.ndarray]  # rule -> what a model answers to each example, or a loss of LOSSES; all [examples]
# Tokens that models read so far for log-likelihoods, without padding: `computed`, and lm-eval's own number, `plain`.
TOKENS: Counter[str] = Counter()
OTHER_KNOBS = ("max_examples", "finetune", "after")  # of every task: each has its own place in an identity
_READ: dict[tuple[type, str, Path | None], str] = {}  # a task and its data_root -> the digest of its examples
SEED_LIMIT = 2**32  # numpy takes seeds below this
SET_ASIDE = 1000  # training examples for selection, at most a tenth of all, where a data set has no split for it


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

    def identity(self, data_root: Path | None) -> str:
        """Returns a short digest that changes exactly when the data of any split would.

        Every job asks for it. This one reads all examples, once in a process; a task whose files or versions say it
        sooner overrides it.
        """
        data_only = replace(self, max_examples=None, finetune={}, after=None)
        key = (type(self), repr(data_only), data_root)
        if key not in _READ:
            with tempfile.TemporaryDirectory() as cache_dir:
                _READ[key] = data_only.load_checked(data_root, Path(cache_dir)).digest()
        return _READ[key]

    def fingerprint(self, data_root: Path | None) -> str:
        """Returns the identity of all data that the results depend on, those of the task before included."""
        identity = self.identity(data_root)
        if left_out := self._knobs_without_effect(identity, data_root):
            identity = digest([identity, left_out])
        if sources := sources_of(type(self)):  # of a task from outside any line may change the answers
            identity = digest([identity, sources])
        return identity if self.after is None else digest([identity, self.after.fingerprint(data_root)])

    def _knobs_without_effect(self, identity: str, data_root: Path | None) -> dict[str, str]:
        """Returns the knobs that are not at their defaults and that `identity` does not depend on.

        They may draw other examples all the same: an identity is written by hand.
        """
        found = {}
        for knob in (knob for knob in fields(self) if knob.init and knob.name not in OTHER_KNOBS):
            default: Any = knob.default if knob.default_factory is MISSING else knob.default_factory()
            written, usual = (json.dumps(value, default=repr) for value in (getattr(self, knob.name), default))
            if written != usual:
                with contextlib.suppress(HiesError):  # the data of the default are not here: it has an effect
                    if replace(self, **{knob.name: default}).identity(data_root) == identity:
                        found[knob.name] = written
        return found

    @abstractmethod
    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns all splits, whole.

        Args:
            data_root: the folder of local copies of Hub data sets; None: the Hub itself.
            cache_dir: the folder for what is costly to make.
        """

    def load_checked(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns what `load` does, all of it checked, the report split cut to `max_examples`."""
        splits = self.load(data_root, cache_dir)
        if not isinstance(splits, Splits):
            raise HiesError(f"task={self.name} loads a {type(splits).__name__}, where Splits should be.")
        train, selection, report = (
            self.checked(getattr(splits, one.name), f"the {one.name} split of task={self.name}", data_root)
            for one in fields(splits)
        )
        if not len(report):
            raise HiesError(f"The report split of task={self.name} has no example.")
        return Splits(train, selection, report.first(self.max_examples))

    def checked(self, split: Split, where: str, data_root: Path | None = None) -> Split:
        """Returns a split whose texts, images and labels all are what they should be, labels in the metric's type.

        Raises:
            HiesError: one is not; the message says in which row of `where`.
        """
        checks.check_columns(split.inputs, len(split), where, (str, Real))
        return split

    @abstractmethod
    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the classes in the order of their indices; none where answers are scores or texts."""

    def output_names(self, data_root: Path | None) -> tuple[str, ...]:
        """Returns what the outputs of a classifier stand for, in order: its classes; none where there is one score."""
        return self.label_names(data_root)

    def network_options(self, data_root: Path | None, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """Returns what the configuration of a model for this task says, such as its outputs or its number of words."""
        return {}

    def check_network(self, network: Any, data_root: Path | None, checkpoint: str) -> None:
        """Raises HiesError where a classifier does not have one output for each class, or a single one for a score."""
        outputs, labels = network.config.num_labels, max(len(self.output_names(data_root)), 1)
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
        (likelihood by the length of the option). `losses` and `token_losses` are those of `hies.runs.schema.LOSSES`,
        where the answers are made from what gives them: a text that is generated has none.
        """

    def as_answers(self, values: np.ndarray) -> np.ndarray:
        """Returns labels, or what a model says in their units, [examples], on the scale of answers."""
        return values

    @property
    def judge(self) -> str | None:
        """The model that grades answers now, part of a run's identity; None where a rule does or no judge is there."""
        return None

    def graded(self, examples: Split, answers: np.ndarray, cache_dir: Path) -> np.ndarray:
        """Returns what the metric is computed from, [examples]: the answers themselves, or a judge's grades of them."""
        return answers

    def chance(self, examples: Split) -> float | None:
        """Returns which share of the answers a guess among the options gets right; None where it is not known."""
        return None

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Returns what rows say besides, such as where calibration examples come from."""
        return {}

    def description(self, data_root: Path | None) -> str:
        """Returns a line on what is read, for commands to print; nothing where the name of the task says it."""
        return ""

    def for_classifier(self, outputs: Sequence[str], data_root: Path | None) -> Task | None:
        """Returns the task as a classifier answers it whose outputs have these names; None: it has other classes.

        Names count, unless they are none (LABEL_0: then answers tell which is which) or the task goes by numbers.
        """
        classes = self.label_names(data_root)
        same_names = set(map(checks.plain_label, outputs)) == set(map(checks.plain_label, classes))
        fits = same_names or checks.are_unnamed(outputs) or self.numbered or not classes
        return self if fits and len(outputs) == max(len(classes), 1) else None


class ClassifierTask(Task):
    """A task with classes or scores, for which a classifier is fine-tuned."""

    finetuned = True
    scores: ClassVar[tuple[float, float]] = (-inf, inf)  # the lowest and the highest, where answers are scores

    def checked(self, split: Split, where: str, data_root: Path | None = None) -> Split:
        """Returns the split with class indices, int64, or scores, float32, as labels."""
        checks.check_columns(split.inputs, len(split), where, (str,))
        if classes := len(self.label_names(data_root)):
            return Split(split.inputs, checks.class_labels(split.labels, classes, where))
        return Split(split.inputs, checks.score_labels(split.labels, self.scores, where))

    def network_options(self, data_root: Path | None, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """Returns the outputs by name; a single one for a regression task."""
        names = self.output_names(data_root)
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
        """Returns `predictions`: class indices (int64), or scores (float32) where the model has one output.

        `losses`, float32: the cross-entropy of the labelled class in nats, or the squared error of the score.
        """
        from hies.tasks import classifier

        return classifier.predict(network, examples, batch_size, precision)


class PromptTask(Task):
    """A task that is put to a language model as it stands: no classifier, and no fine-tuning for it.

    Some also train the models that are built from an architecture, on their `train` split (`Model.pretrain_task`).
    """

    finetuned = False

    def checked(self, split: Split, where: str, data_root: Path | None = None) -> Split:
        """Returns the split with the right answers as labels: whole numbers, or strings."""
        super().checked(split, where)
        whole = np.asarray(split.labels).dtype.kind in "iu"
        return split if whole else Split(split.inputs, checks.text_labels(split.labels, where))

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns none: answers are what the model says."""
        return ()

    def make_processor(self, train: Split, architecture: dict[str, Any], max_length: int) -> Any:
        """Raises HiesError: most of these tasks train no model. Those that do return its tokenizer or processor."""
        raise HiesError(f"task={self.name} trains no model; set model.pretrain_task to a task that does, such as docs.")


def declare(base: type[_Task], name: str, meaning: str, **declared: Any) -> type[_Task]:
    """Returns a task that differs from its base in class attributes alone; `meaning` is its docstring."""
    return type(name, (base,), {"__doc__": meaning, "__module__": base.__module__, "name": name, **declared})
