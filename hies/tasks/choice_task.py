"""The task of a language model that chooses among options: what it reads, what it answers, what a guess gets right."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.tasks import checks
from hies.tasks import lm_eval as harness
from hies.tasks.base import Answers, PromptTask
from hies.tasks.splits import Split

if TYPE_CHECKING:
    from hies.batching import Encoded


class ChoiceTask(PromptTask):
    """A task whose splits have the columns of `hies.tasks.lm_eval.prompts`, and the right options as labels."""

    modality: ClassVar[str] = "language"

    def checked(self, split: Split, where: str, data_root: Path | None = None) -> Split:
        """Returns the split; labels are the numbers of right options, or the right answers as strings."""
        if np.asarray(split.labels).dtype.kind in "SUO":
            return super().checked(split, where)
        checks.check_columns(split.inputs, len(split), where, (str, Real))
        return Split(split.inputs, checks.option_labels(split.labels, split.inputs["continuations"], where))

    def encode(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns each context with its right continuation as one text; every token of it counts in the loss.

        A text of more than `max_length` tokens loses its beginning, as with lm-eval: its end is the answer.
        """
        return encode_texts(list(self.texts(examples)), processor, max_length)

    def answers(self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str) -> Answers:
        """Returns the options chosen, int64 [examples]: `predictions` as lm-eval's acc counts, `norm` as acc_norm.

        With the losses of the right ones, see `hies.tasks.choices.option_losses`.
        """
        return harness.choose(network, processor, examples.inputs, batch_size, precision, examples.labels)

    def texts(self, examples: Split) -> Iterator[str]:
        """Yields the whole text of each example, with its right continuation."""
        columns = (examples.inputs["contexts"], examples.inputs["continuations"], self.right_options(examples.labels))
        for contexts, continuations, right in zip(*columns, strict=True):
            yield contexts[right % len(contexts)] + continuations[right]  # one context, or one an option

    def right_options(self, labels: np.ndarray) -> np.ndarray:
        """Returns the continuation of each example that is right."""
        return labels

    def chance(self, examples: Split) -> float | None:
        """Returns the mean of 1 / options; 0 where answers are generated."""
        options = np.array([len(continuations) for continuations in examples.inputs["continuations"]])
        return float(np.mean((options > 1) / options))


def encode_texts(texts: list[str], processor: Any, max_length: int) -> Encoded:
    """Returns texts as tokens that are labels as well; of more than `max_length` tokens the last are kept."""
    import torch

    from hies.batching import Encoded
    from hies.scoring.losses import IGNORED

    rows = []
    for ids in processor(texts)["input_ids"]:
        tokens = torch.tensor(ids[-max_length:])
        rows.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens})
    return Encoded(rows, {"input_ids": int(processor.pad_token_id or 0), "labels": IGNORED})
