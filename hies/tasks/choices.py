"""Which of some continuations follows a context? What all tasks share whose options a language model weighs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.tasks import lm_eval as harness
from hies.tasks.base import Answers, PromptTask, Split

if TYPE_CHECKING:
    from hies.batching import Encoded


class ChoiceTask(PromptTask):
    """A task whose splits have the columns of `hies.tasks.lm_eval.prompts`, and the right options as labels."""

    modality: ClassVar[str] = "language"

    def encode(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns each context with its right continuation as one text; every token of it counts in the loss.

        A text of more than `max_length` tokens loses its beginning, as with lm-eval: its end is the answer.
        """
        import torch

        from hies.batching import Encoded
        from hies.scoring.losses import IGNORED

        rows = []
        for ids in processor(list(self.texts(examples)))["input_ids"]:
            tokens = torch.tensor(ids[-max_length:])
            rows.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens})
        return Encoded(rows, {"input_ids": int(processor.pad_token_id or 0), "labels": IGNORED})

    def answers(self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str) -> Answers:
        """Returns the options chosen, int64 [examples]: `predictions` as lm-eval's acc counts, `norm` as acc_norm."""
        return harness.choose(network, processor, examples.inputs, batch_size, precision)

    def texts(self, examples: Split) -> Iterator[str]:
        """Yields the whole text of each example, with its right continuation."""
        columns = (examples.inputs["contexts"], examples.inputs["continuations"], self.right_options(examples.labels))
        for contexts, continuations, right in zip(*columns, strict=True):
            yield contexts[right % len(contexts)] + continuations[right]  # one context, or one an option

    def right_options(self, labels: np.ndarray) -> np.ndarray:
        """Returns the continuation of each example that is right."""
        return labels
