"""From the examples of a split to padded batches, sorted by length so that little is computed on padding."""

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hies.errors import HiesError

if TYPE_CHECKING:  # tasks import this module
    from hies.tasks.base import Split

Batch = dict[str, Tensor]

KEPT = 2**30  # bytes of prepared images that one set of examples may hold on to
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Encoded:
    """Examples as a model takes them, not yet padded.

    features: one dict of tensors an example, without a batch dimension. pad: the value that fills each feature up.
    """

    features: Sequence[Batch]
    pad: dict[str, int]

    def __len__(self) -> int:
        return len(self.features)

    def length(self, index: int) -> int:
        """Tokens of an example; 1 for images."""
        return 1 if isinstance(self.features, Pictures) else len(next(iter(self.features[index].values())))

    def batch(self, indices: np.ndarray | list[int]) -> Batch:
        """One padded batch of the given examples; the labels are always `labels`."""
        chosen = [self.features[i] for i in indices]
        return {name: _stack([feature[name] for feature in chosen], self.pad.get(name, 0)) for name in chosen[0]}

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[np.ndarray, Batch]]:
        """Every example once, similar lengths together: (indices of the examples, batch on `device`)."""
        by_length = np.argsort([self.length(i) for i in range(len(self))], kind="stable")
        for start in range(0, len(self), size):
            indices = by_length[start : start + size]
            yield indices, {name: tensor.to(device) for name, tensor in self.batch(indices).items()}


class Pictures(Sequence[Batch]):
    """Images that are decoded and prepared when they are asked for: prepared ones can be hundreds of times as large.

    files: PNG or JPEG, encoded; grey ones become RGB. labels: [examples]. processor: an image processor; None, for a
    model that is built from an architecture: images are scaled to [-1, 1]. size: pixels of a side that they are then
    brought to (bilinear, proportions not kept); None: they stay as large as they are, and are all of one size.

    What was prepared is kept if all examples fit in `KEPT` bytes.
    """

    def __init__(self, files: Sequence[bytes], labels: Tensor, processor: Any, size: int | None = None) -> None:
        self.files, self.labels, self.processor, self.size = files, labels, processor, size
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        """The feature dict of one example: `pixel_values`, float32 [3, height, width], and `labels`.

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
        picture = self._decoded(index)
        if self.processor is not None:
            return self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
        if self.size is not None:
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        elif picture.size != self._first_size:
            raise HiesError(
                f"Image {index} of {len(self)} has {picture.width} x {picture.height} pixels and image 0 has "
                f"{self._first_size[0]} x {self._first_size[1]}; a model without an image processor takes images of "
                "one size, or resizes them where model.architecture.image_size is given."
            )
        return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1).contiguous()

    @cached_property
    def _first_size(self) -> tuple[int, int]:
        return self._decoded(0).size

    def _decoded(self, index: int) -> Image.Image:
        file = self.files[index]
        try:
            return Image.open(io.BytesIO(file)).convert("RGB")
        except UNDECODABLE as error:
            raise HiesError(
                f"Image {index} of {len(self)} ({len(file)} bytes, SHA-256 {hashlib.sha256(file).hexdigest()[:12]}) "
                "cannot be decoded; get the data set again, or replace the file by a PNG or a JPEG."
            ) from error


def encode(split: "Split", processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
    """Tokenise a text split (truncated to `max_length` tokens), or take or prepare an image split.

    processor: the tokenizer; for `image` files the image processor, or None (see `Pictures`, as for image_size); not
    used for `pixel_values`.
    """
    labels = torch.as_tensor(split.labels)
    if "pixel_values" in split.inputs:
        pixels = torch.as_tensor(split.inputs["pixel_values"])
        return Encoded([{"pixel_values": p, "labels": y} for p, y in zip(pixels, labels, strict=True)], {})
    if "image" in split.inputs:
        return Encoded(Pictures(split.inputs["image"], labels, processor, image_size), {})
    columns: list[Any] = [split.inputs[name] for name in ("text", "text_pair") if name in split.inputs]
    tokens = processor(*columns, truncation=True, max_length=max_length)
    rows = [
        {**{name: torch.tensor(values[i]) for name, values in tokens.items()}, "labels": labels[i]}
        for i in range(len(split))
    ]
    return Encoded(rows, {"input_ids": int(processor.pad_token_id or 0)})


def _stack(tensors: list[Tensor], value: int) -> Tensor:
    if tensors[0].dim() != 1:
        return torch.stack(tensors)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
