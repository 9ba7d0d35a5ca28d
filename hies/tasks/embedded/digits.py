"""digits: which of ten digits does this image of 8 x 8 grey pixels show? An embedded image task without a download."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hies.errors import HiesError
from hies.storage import digest
from hies.tasks.base import Split, Splits, Task

FORMAT = 1  # to be raised when the same knobs give other data
TRAIN, SELECTION, REPORT = 1000, 297, 500  # of the 1,797 images that scikit-learn carries


@dataclass(frozen=True)
class Digits(Task):
    """scikit-learn's handwritten digits. data_seed: which images fall into which split."""

    name: ClassVar[str] = "digits"
    modality: ClassVar[str] = "image"

    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.data_seed < 2**32:
            raise HiesError(f"task.data_seed is {self.data_seed}; it must be between 0 and 4294967295.")

    def label_names(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple("0123456789")

    def identity(self, data_root: Path | None) -> str:
        """A digest of the draw; the images themselves have been the same in every version of scikit-learn."""
        return digest(["digits", FORMAT, TRAIN, SELECTION, REPORT, self.data_seed])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """1,000 images to train on, 297 for selection and 500 for the report, each with its share of every digit."""
        pixels, labels = load_digits(return_X_y=True)
        images = (pixels.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)  # 0..16 -> -1..1
        every = Split({"pixel_values": images}, labels.astype(np.int64))
        train, rest = self._divide(np.arange(len(labels)), labels, SELECTION + REPORT)
        selection, report = self._divide(rest, labels, REPORT)
        return Splits(every.take(train), every.take(selection), every.take(report))

    def _divide(self, indices: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        kept, taken = train_test_split(
            indices, test_size=size, random_state=self.data_seed, stratify=labels[indices], shuffle=True
        )
        return kept, taken
