"""digits: which of ten digits does this image of 8 x 8 grey pixels show? An embedded image task without a download."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hies.storage import digest
from hies.tasks.base import ClassifierTask, Split, Splits

DRAW_VERSION = 1  # to be raised when the same knobs give other data
DIGIT_SIZES = 1000, 297, 500  # train, selection, report, of the 1,797 images that scikit-learn carries


@dataclass(frozen=True)
class Digits(ClassifierTask):
    """scikit-learn's handwritten digits.

    Attributes:
        data_seed: decides which images fall into which split.
    """

    name: ClassVar[str] = "digits"
    modality: ClassVar[str] = "image"

    data_seed: int = 0

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the ten digits."""
        return tuple("0123456789")

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the draw; the images themselves have been the same in every version of scikit-learn."""
        return digest(["digits", DRAW_VERSION, *DIGIT_SIZES, self.data_seed])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns 1,000 images for training, 297 for selection and 500 to report, digits alike in all of them."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        images = (pixels.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)  # [images, 1, 8, 8], 0..16 -> -1..1
        every = Split({"pixel_values": images}, labels.astype(np.int64))
        _, selection, report = DIGIT_SIZES
        train, rest = self._divide(np.arange(len(labels)), labels, selection + report)
        return Splits(every.take(train), *map(every.take, self._divide(rest, labels, report)))

    def _divide(self, indices: np.ndarray, labels: np.ndarray, size: int) -> list[np.ndarray]:
        from sklearn.model_selection import train_test_split

        return train_test_split(indices, test_size=size, random_state=self.data_seed, stratify=labels[indices])
