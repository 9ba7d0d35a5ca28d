"""Encoded image files as a model's inputs."""

import hashlib
import io
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hies.batching import Batch
from hies.errors import HiesError

KEPT = 2**30  # bytes of prepared images that one set of examples may hold on to
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
