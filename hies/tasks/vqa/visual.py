"""Questions about images, put to a vision-language model and answered in its own words."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hies.batching import UNDECODABLE, Batch, Encoded
from hies.errors import HiesError
from hies.heads.attention import evaluating
from hies.precision import computing
from hies.scoring.losses import IGNORED
from hies.tasks.base import PromptTask, Split

PLAIN = "USER: <image>\n{} ASSISTANT:"  # the form that LLaVA-1.5 documents, for a processor without a chat template
READ = ("input_ids", "attention_mask", "pixel_values")  # of what a processor gives


@dataclass(frozen=True)
class VisualTask(PromptTask):
    """A task whose splits have the columns `image`, encoded files, and `question`, what is asked of the model.

    Answers are generated greedily with the key/value cache, `max_new_tokens` at most. Heads are scored by the loss of
    the right answer's tokens and of the end after them, given the image and the question: these two are read, not
    said, so their labels are -100.
    """

    modality: ClassVar[str] = "vision_language"
    max_new_tokens: ClassVar[int]

    def target(self, label: str) -> str:
        """The answer that a model should give to an example with this label."""
        return label

    def read(self, text: str) -> str:
        """The prediction that lies in what a model wrote."""
        return text.strip()

    def encode(self, examples: Split, processor: Any, max_length: int) -> Encoded:
        """Prompts with their right answers, prepared when they are asked for: prepared images are large.

        Raises:
            HiesError: on access, an example of more than `max_length` tokens (image tokens included) or a broken image.
        """
        targets = [self.target(str(label)) for label in examples.labels]
        pad = {"input_ids": processor.tokenizer.pad_token_id or 0, "labels": IGNORED}
        return Encoded(Questions(examples, targets, processor, max_length), pad)

    def answers(
        self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str
    ) -> dict[str, np.ndarray]:
        """What the model says to each question, `predictions`, strings [examples]."""
        lengths = [len(question) for question in examples.inputs["question"]]
        order = np.argsort(lengths, kind="stable")  # similar lengths together: little padding
        found = [""] * len(examples)
        with evaluating(network), torch.no_grad(), computing(precision, network.device):
            for start in tqdm(range(0, len(order), batch_size), "answering", leave=False, disable=None):
                chosen = order[start : start + batch_size]
                texts = self._generate(network, processor, examples.take(chosen))
                for place, text in zip(chosen, texts, strict=True):
                    found[place] = self.read(text)
        return {"predictions": np.array(found, dtype=str)}

    def _generate(self, network: Any, processor: Any, asked: Split) -> list[str]:
        put = _put(processor, asked, range(len(asked)))
        inputs = processor(**put, padding=True, padding_side="left", return_tensors="pt")
        inputs = {name: inputs[name].to(network.device) for name in READ}
        tokenizer = processor.tokenizer
        written = network.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
        return tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class Questions(Sequence[Batch]):
    """Prompts and right answers as labelled inputs, prepared when they are asked for."""

    def __init__(self, examples: Split, targets: Sequence[str], processor: Any, max_length: int) -> None:
        self.examples, self.targets = examples, targets
        self.processor, self.max_length = processor, max_length

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Any) -> Any:
        """The feature dict of one example."""
        return self.prepared([index])[0]

    def prepared(self, indices: Sequence[int]) -> list[Batch]:
        """The feature dicts of some examples, sooner than one by one."""
        inputs = self.processor(**_put(self.processor, self.examples, indices))
        rows = zip(indices, inputs["input_ids"], inputs["pixel_values"], strict=True)
        return [self._labelled(index, tokens, torch.as_tensor(pixels)) for index, tokens, pixels in rows]

    def _labelled(self, index: int, prompt: list[int], pixels: Tensor) -> Batch:
        tokenizer = self.processor.tokenizer
        answer = [*tokenizer(self.targets[index], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        tokens = torch.tensor([*prompt, *answer])
        if len(tokens) > self.max_length:
            raise HiesError(
                f"model.max_length is {self.max_length}, but a question about an image takes {len(tokens)} tokens with "
                f"its answer, {self._image_tokens(prompt)} of them for the image, and none can be left out; raise it."
            )
        labels = tokens.clone()
        labels[: len(prompt)] = IGNORED
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "pixel_values": pixels,
            "labels": labels,
        }

    def _image_tokens(self, prompt: list[int]) -> int:
        return prompt.count(self.processor.image_token_id)


def _put(processor: Any, examples: Split, indices: Sequence[int]) -> dict[str, list[Any]]:
    """The images and the prompts of some examples, as a processor takes them."""
    asked = [(examples.inputs["image"][i], examples.inputs["question"][i]) for i in indices]
    return {
        "images": [picture(file, question) for file, question in asked],
        "text": [prompt(processor, question) for _, question in asked],
    }


def prompt(processor: Any, question: str) -> str:
    """One image and a question in the model's own form of a conversation, up to where its answer begins."""
    if not processor.chat_template:
        return PLAIN.format(question)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def picture(file: bytes, question: str) -> Image.Image:
    """An encoded image in RGB.

    Raises:
        HiesError: it cannot be decoded; the question names it.
    """
    try:
        return Image.open(io.BytesIO(file)).convert("RGB")
    except UNDECODABLE as error:
        raise HiesError(f"The image of the question {question!r} cannot be read; give whole image files.") from error
