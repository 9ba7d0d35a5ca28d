"""Which examples heads are scored on, and with whose labels; those of the report split are never among them."""

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hies.errors import ParameterError, check_choice
from hies.runs.quality import SQUARED
from hies.storage import digest
from hies.tasks import TASKS
from hies.tasks.base import Task
from hies.tasks.splits import Split

if TYPE_CHECKING:
    from hies.evaluation.evaluator import Evaluator

OWN = ("train", "selection", "words")
LABELS = ("data", "model")
TEXTS = ("text", "text_pair")  # the columns of a task of texts
UNLABELLED = ("next_token",)  # metrics of tasks whose loss is that of the text itself


@dataclass(frozen=True)
class CalibrationSource:
    """Where calibration examples come from.

    Attributes:
        examples: `train` (the paper), which a fine-tuned model has seen; `selection`, which it has not; `words`, texts
            of `train` in which each word is another one of them, drawn by chance; or a task, whose training texts these
            are.
        labels: `data`, the right ones; or `model`, what the unpruned model itself answers.
    """

    examples: str = "train"
    labels: str = "data"

    def __post_init__(self) -> None:
        if self.examples not in (*OWN, *TASKS):
            raise ParameterError("examples", self.examples, f"use {', '.join(OWN)} or the name of a task of texts")
        check_choice("labels", self.labels, LABELS)
        if self.labels == "data" and self.examples not in OWN[:2]:
            expected = f"{self.examples} brings no labels of this task; use 'model', what the model itself answers"
            raise ParameterError("labels", self.labels, expected)

    @property
    def off_default(self) -> dict[str, str]:
        """The fields that are not the paper's, by name."""
        return {
            one.name: value for one in fields(CalibrationSource) if (value := getattr(self, one.name)) != one.default
        }

    def identity(self, data_root: Path | None) -> dict[str, Any]:
        """Returns what the calibration set depends on besides the data of the job's own task."""
        known = {name: value for name, value in asdict(self).items() if name not in ("examples", "labels")}
        data = {"texts": TASKS[self.examples]().fingerprint(data_root)} if self.examples in TASKS else {}
        return {**known, **self.off_default, **data}

    def check(self, task: Task) -> None:
        """Raises ParameterError where a task has no such examples, or none with such labels."""
        if self.examples not in OWN[:2]:
            other = TASKS.get(self.examples, type(task))
            if (task.modality, other.modality) != ("text", "text"):
                expected = f"task={task.name} takes no texts of others; use train or selection"
                raise ParameterError("examples", self.examples, expected)
            if self.examples == task.name:
                raise ParameterError("examples", self.examples, "these are the task's own; use train")
        if self.labels == "model" and task.metric in SQUARED:
            expected = f"to its own scores a model of task={task.name} has no error, and so no gradient; use data"
            raise ParameterError("labels", self.labels, expected)
        if self.labels == "model" and task.metric in UNLABELLED:
            expected = f"the loss of task={task.name} is that of the text itself, whatever a model answers; use data"
            raise ParameterError("labels", self.labels, expected)

    def pool(self, evaluator: "Evaluator") -> Split:
        """Returns the examples that are drawn from, with the labels of the data; no model is needed.

        Raises:
            ParameterError: a model would label them, but has nothing to choose among: its answers are the data's.
        """
        pool = self._pool(evaluator)
        if self.labels == "model" and evaluator.task.chance(pool) == 0:
            expected = f"the examples of task={evaluator.task.name} have one option each; use data"
            raise ParameterError("labels", self.labels, expected)
        return pool

    def _pool(self, evaluator: "Evaluator") -> Split:
        if self.examples == "selection":
            return evaluator.splits.selection
        train = evaluator.splits.train
        if self.examples in OWN:
            return train
        other, _ = _training_texts(self.examples, evaluator.data_root, evaluator.cache_dir)
        # In the place of labels that the model answers in a moment: the other task's own are no classes of this one.
        return Split(other.inputs, np.resize(train.labels[:1], len(other)))

    def drawn(self, evaluator: "Evaluator", seed: int, size: int) -> Split:
        """Returns `size` examples of the pool drawn with `seed`, with the labels that they are scored by."""
        pool = self.pool(evaluator)
        examples = pool.take(np.random.default_rng(seed).permutation(len(pool))[:size])
        if self.examples == "words":
            examples = with_random_words(examples, pool, seed)
        return evaluator.with_own_labels(examples) if self.labels == "model" else examples

    def key(self, evaluator: "Evaluator") -> list[Any]:
        """Returns what names in the cache say of it; nothing of the paper's, as in those of before."""
        if self.examples not in TASKS:
            return [self.off_default] if self.off_default else []
        return [self.off_default, _training_texts(self.examples, evaluator.data_root, evaluator.cache_dir)[1]]


@lru_cache(maxsize=1)
def _training_texts(name: str, data_root: Path | None, cache_dir: Path) -> tuple[Split, str]:
    """Returns the training split of a task, and a digest of its texts."""
    train = TASKS[name]().load_checked(data_root, cache_dir).train
    return train, digest(train.inputs)


def with_random_words(examples: Split, pool: Split, seed: int) -> Split:
    """Returns texts of as many words each, every word drawn from all words of the pool, frequent ones more often."""
    columns = [name for name in TEXTS if name in examples.inputs]
    words = np.array([word for name in columns for text in pool.inputs[name] for word in text.split()], dtype=object)
    generator = np.random.default_rng([1, seed])  # not the numbers that chose the examples

    def drawn(text: str) -> str:
        return " ".join(generator.choice(words, len(text.split()))) if text.split() else text

    return Split(
        {**examples.inputs, **{name: [*map(drawn, examples.inputs[name])] for name in columns}}, examples.labels
    )
