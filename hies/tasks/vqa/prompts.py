"""Images and questions as a vision-language model takes them, with the right answer or up to where its own begins."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hies.batching import Batch
from hies.errors import HiesError, ParameterError
from hies.heads.attention import evaluating
from hies.precision import computing
from hies.progress import ProgressBar
from hies.scoring.losses import IGNORED
from hies.tasks.classifier import UNDECODABLE, open_rgb
from hies.tasks.splits import Split

PLAIN_PROMPT = "USER: <image>\n{} ASSISTANT:"  # documented for LLaVA-1.5, for a processor without a chat template
READ = ("input_ids", "attention_mask", "pixel_values")  # the model's part of what a processor returns


@torch.no_grad()
def generate_answers(
    network: Any, processor: Any, examples: Split, batch_size: int, precision: str, new_tokens: int
) -> list[str]:
    """Returns what a model writes after each prompt, greedily, at most `new_tokens` tokens."""
    lengths = [len(question) for question in examples.inputs["question"]]
    order = np.argsort(lengths, kind="stable")  # similar lengths together: little padding
    texts = [""] * len(examples)
    with evaluating(network), computing(precision, network.device):
        for start in ProgressBar(range(0, len(order), batch_size), "answering", leave=False):
            chosen = order[start : start + batch_size]
            written = _generate_batch(network, processor, examples.take(chosen), new_tokens)
            for place, text in zip(chosen, written, strict=True):
                texts[place] = text
    return texts


def _generate_batch(network: Any, processor: Any, examples: Split, new_tokens: int) -> list[str]:
    prompts = _images_and_texts(processor, examples, range(len(examples)))
    inputs = processor(**prompts, padding=True, padding_side="left", return_tensors="pt")
    inputs = {name: inputs[name].to(network.device) for name in READ}
    tokenizer = processor.tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id or 0}
    # [batch, prompt tokens + new tokens]
    written = network.generate(**inputs, **ends, max_new_tokens=new_tokens, do_sample=False, num_beams=1)
    return tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class LabelledPrompts(Sequence[Batch]):
    """Prompts and right answers as labelled inputs, prepared when they are asked for: prepared images are large.

    Attributes:
        examples: images and questions.
        targets: the right answers, [examples].
        processor: the model's tokenizer and image processor.
        max_length: tokens of an example at most, those of its image included.
    """

    def __init__(self, examples: Split, targets: Sequence[str], processor: Any, max_length: int) -> None:
        self.examples, self.targets = examples, targets
        self.processor, self.max_length = processor, max_length

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Any) -> Any:
        """Returns the features of one example."""
        return self.prepared([index])[0]

    def prepared(self, indices: Sequence[int]) -> list[Batch]:
        """Returns the features of some examples, sooner than one by one."""
        inputs = self.processor(**_images_and_texts(self.processor, self.examples, indices))
        rows = zip(indices, inputs["input_ids"], inputs["pixel_values"], strict=True)
        return [self._labelled(index, tokens, torch.as_tensor(pixels)) for index, tokens, pixels in rows]

    def _labelled(self, index: int, prompt: list[int], pixels: Tensor) -> Batch:
        tokenizer = self.processor.tokenizer
        answer = [*tokenizer(self.targets[index], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        tokens = torch.tensor([*prompt, *answer])
        if len(tokens) > self.max_length:
            expected = (
                f"a question about an image takes {len(tokens)} tokens with its answer, "
                f"{prompt.count(self.processor.image_token_id)} of them for the image, and none can be left out, so "
                "raise it"
            )
            raise ParameterError("max_length", self.max_length, expected)
        labels = tokens.clone()
        labels[: len(prompt)] = IGNORED
        features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
        return {**features, "pixel_values": pixels}


def _images_and_texts(processor: Any, examples: Split, indices: Sequence[int]) -> dict[str, list[Any]]:
    """Returns some examples as the arguments of a processor."""
    chosen = [(examples.inputs["image"][i], examples.inputs["question"][i]) for i in indices]
    return {
        "images": [_image(file, question) for file, question in chosen],
        "text": [prompt(processor, question) for _, question in chosen],
    }


def prompt(processor: Any, question: str) -> str:
    """Returns one image and a question in the model's form of a conversation, up to where its answer begins."""
    if not processor.chat_template:
        return PLAIN_PROMPT.format(question)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _image(file: bytes, question: str) -> Image.Image:
    try:
        return open_rgb(file)
    except UNDECODABLE as error:
        raise HiesError(f"The image of the question {question!r} cannot be read; give whole image files.") from error
