"""Texts and images as a classifier takes them, and what it answers."""

import hashlib
import io
import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hies.batching import Batch, Encoded
from hies.errors import HiesError
from hies.heads.attention import evaluating
from hies.precision import computing
from hies.scoring.losses import DefaultLoss
from hies.tasks.base import Answers
from hies.tasks.splits import Split

KEPT = 2**30  # bytes of prepared images that one set of examples may hold on to
LOSS = DefaultLoss(None, shifted=False)  # cross-entropy of classes, squared error of scores
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def open_rgb(file: bytes) -> Image.Image:
    """Returns an encoded image (PNG or JPEG) in RGB; raises one of `UNDECODABLE` for anything else."""
    return Image.open(io.BytesIO(file)).convert("RGB")


class ImageFiles(Sequence[Batch]):
    """Images that are decoded and prepared when they are asked for: prepared ones can be hundreds of times as large.

    What was prepared is kept if all examples fit in `KEPT` bytes.

    Attributes:
        files: PNG or JPEG, encoded, [examples].
        labels: [examples].
        processor: an image processor; None, for a model that is built from an architecture: pixels from -1 to 1.
        size: pixels of a side that images without a processor are brought to (bilinear, proportions not kept); None:
            they stay as large as they are, and are all of one size.
    """

    def __init__(self, files: Sequence[bytes], labels: Tensor, processor: Any, size: int | None = None) -> None:
        self.files, self.labels, self.processor, self.size = files, labels, processor, size
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        """Returns the features of one example: `pixel_values`, float32 [3, height, width], and `labels`.

        Raises:
            HiesError: the file cannot be decoded, or it is not as large as the others and nothing resizes it.
        """
        index = int(index)
        pixels = self._kept.get(index)
        if pixels is None:
            pixels = self._prepared(index)
            if len(self) * pixels.nbytes <= KEPT:
                self._kept[index] = pixels
        return {"pixel_values": pixels, "labels": self.labels[index]}

    def _prepared(self, index: int) -> Tensor:
        image = self._decoded(index)
        if self.processor is not None:
            return self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        elif image.size != self._first_size:
            raise HiesError(
                f"Image {index} of {len(self)} has {image.width} x {image.height} pixels and image 0 has "
                f"{self._first_size[0]} x {self._first_size[1]}; a model without an image processor takes images of "
                "one size, or resizes them where model.architecture.image_size is given."
            )
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [height, width, 3] -> [3, height, width]
        return (pixels.float() / 127.5 - 1).contiguous()  # 0..255 -> -1..1

    @cached_property
    def _first_size(self) -> tuple[int, int]:
        return self._decoded(0).size

    def _decoded(self, index: int) -> Image.Image:
        file = self.files[index]
        try:
            return open_rgb(file)
        except UNDECODABLE as error:
            raise HiesError(
                f"Image {index} of {len(self)} ({len(file)} bytes, SHA-256 {hashlib.sha256(file).hexdigest()[:12]}) "
                "cannot be decoded; get the data set again, or replace the file by a PNG or a JPEG."
            ) from error


def encode(split: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
    """Returns a text split as tokens, cut to `max_length`, or an image split as pixels.

    Args:
        split: the examples.
        processor: the tokenizer; for `image` files the image processor, or None; not used for `pixel_values`.
        max_length: tokens of an example at most.
        image_size: see `ImageFiles`.
    """
    labels = _tensor(split.labels)
    if "pixel_values" in split.inputs:
        pixels = _tensor(split.inputs["pixel_values"])
        return Encoded([{"pixel_values": p, "labels": y} for p, y in zip(pixels, labels, strict=True)], {})
    if "image" in split.inputs:
        images = ImageFiles(split.inputs["image"], labels, processor, image_size)
        return Encoded(images, {}, lengths=[1] * len(images))
    columns: list[Any] = [split.inputs[name] for name in ("text", "text_pair") if name in split.inputs]
    # The mask, whatever a tokenizer says by default: a model that gets none reads the padding.
    tokens = processor(*columns, truncation=True, max_length=max_length, return_attention_mask=True)
    rows = [
        {**{name: torch.tensor(values[i]) for name, values in tokens.items()}, "labels": labels[i]}
        for i in range(len(split))
    ]
    return Encoded(rows, {"input_ids": int(processor.pad_token_id or 0)})


def _tensor(array: np.ndarray) -> Tensor:
    """Returns an array as a tensor; one that may only be read, as pandas hands out, is copied."""
    return torch.from_numpy(np.require(array, requirements="W"))


def class_or_score(logits: Tensor) -> Tensor:
    """Returns what logits [batch, outputs] say: the class, or the score of a single output; [batch]."""
    return logits[:, 0].float() if logits.shape[1] == 1 else logits.argmax(dim=1)


def labels_that_hold(logits: Tensor) -> Tensor:
    """Returns which of several labels hold by logits [batch, outputs]: those more likely than not; uint8, the same."""
    return (logits > 0).to(torch.uint8)


@torch.no_grad()
def predict(
    model: nn.Module,
    examples: Encoded,
    batch_size: int,
    precision: str = "float32",
    answer: Callable[[Tensor], Tensor] = class_or_score,
) -> Answers:
    """Returns the model's answers and their losses, see `hies.tasks.base.ClassifierTask.answers`."""
    device = next(model.parameters()).device
    answers: Answers = {"predictions": np.empty(0, dtype=np.int64), "losses": np.empty(0, dtype=np.float32)}
    with evaluating(model), computing(precision, device):
        for indices, batch in examples.padded_for(model).batches(batch_size, device):
            labels = batch.pop("labels")
            outputs = model(**batch)
            values = {"predictions": answer(outputs.logits), "losses": LOSS(outputs, {"labels": labels})}
            for name, found in ((name, value.cpu().numpy()) for name, value in values.items()):
                if not len(answers[name]):
                    answers[name] = np.empty((len(examples), *found.shape[1:]), dtype=found.dtype)
                answers[name][indices] = found
    return answers
