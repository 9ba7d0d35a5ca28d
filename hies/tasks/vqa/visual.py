"""Questions about images, put to a vision-language model and answered in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.tasks.base import Answers, PromptTask
from hies.tasks.splits import Split

if TYPE_CHECKING:
    from hies.batching import Encoded


@dataclass(frozen=True)
class VisualTask(PromptTask):
    """A task whose splits have the columns `image`, encoded files, and `question`, the text that the model is asked.

    Answers are generated greedily with the key/value cache. Heads are scored by the loss of the right answer's tokens
    and of the end after them, given the image and the question: these two are read, not said, so their labels are -100.

    Attributes:
        max_new_tokens: tokens of an answer at most.
        small: whether all images are prepared at once and kept; if not, each is prepared when it is asked for.
    """

    modality: ClassVar[str] = "vision_language"
    max_new_tokens: ClassVar[int]
    small: ClassVar[bool] = False

    def target(self, label: str) -> str:
        """Returns the answer that a model should give to an example with this label."""
        return label

    def read(self, text: str) -> str:
        """Returns the prediction that lies in what a model wrote."""
        return text.strip()

    def encode(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns prompts with right answers; a broken image, or too long a prompt, raises HiesError when prepared."""
        from hies.batching import Encoded
        from hies.scoring.losses import IGNORED
        from hies.tasks.vqa.prompts import LabelledPrompts

        targets = [self.target(str(label)) for label in examples.labels]
        prompts = LabelledPrompts(examples, targets, processor, max_length)
        pad = {"input_ids": processor.tokenizer.pad_token_id or 0, "labels": IGNORED}
        return Encoded(prompts.prepared(range(len(examples))) if self.small else prompts, pad)

    def answers(self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str) -> Answers:
        """Returns what the model says to each question, `predictions`, strings [examples]."""
        from hies.tasks.vqa.prompts import generate_answers

        texts = generate_answers(network, processor, examples, batch_size, precision, self.max_new_tokens)
        return {"predictions": np.array([self.read(text) for text in texts], dtype=str)}
