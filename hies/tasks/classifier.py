"""Examples as a classifier takes them, and what it answers."""

from typing import Any

import numpy as np
import torch
from torch import nn

from hies.batching import Encoded
from hies.heads.attention import evaluating
from hies.precision import computing
from hies.tasks.base import Split
from hies.tasks.image_files import ImageFiles


def encode(split: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
    """Returns a text split as tokens, cut to `max_length`, or an image split as pixels.

    Args:
        split: the examples.
        processor: the tokenizer; for `image` files the image processor, or None; not used for `pixel_values`.
        max_length: tokens of an example at most.
        image_size: see `ImageFiles`.
    """
    labels = torch.as_tensor(split.labels)
    if "pixel_values" in split.inputs:
        pixels = torch.as_tensor(split.inputs["pixel_values"])
        return Encoded([{"pixel_values": p, "labels": y} for p, y in zip(pixels, labels, strict=True)], {})
    if "image" in split.inputs:
        images = ImageFiles(split.inputs["image"], labels, processor, image_size)
        return Encoded(images, {}, lengths=[1] * len(images))
    columns: list[Any] = [split.inputs[name] for name in ("text", "text_pair") if name in split.inputs]
    tokens = processor(*columns, truncation=True, max_length=max_length)
    rows = [
        {**{name: torch.tensor(values[i]) for name, values in tokens.items()}, "labels": labels[i]}
        for i in range(len(split))
    ]
    return Encoded(rows, {"input_ids": int(processor.pad_token_id or 0)})


@torch.no_grad()
def predict(model: nn.Module, examples: Encoded, batch_size: int, precision: str = "float32") -> np.ndarray:
    """Returns the model's answers, [examples]: class indices (int64), or scores (float32) where it has one output."""
    device = next(model.parameters()).device
    answers: np.ndarray | None = None
    with evaluating(model), computing(precision, device):
        for indices, batch in examples.batches(batch_size, device):
            batch.pop("labels")
            logits = model(**batch).logits  # [batch, outputs]
            answer = (logits[:, 0].float() if logits.shape[1] == 1 else logits.argmax(dim=1)).cpu().numpy()
            if answers is None:
                answers = np.empty(len(examples), dtype=answer.dtype)
            answers[indices] = answer
    return np.empty(0, dtype=np.int64) if answers is None else answers
