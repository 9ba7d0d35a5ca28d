"""The examples of a task: three splits, each of columns and labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    Attributes:
        inputs: columns of equal length by name: `text` (and `text_pair`), lists of strings; or `pixel_values`, float32
            [examples, channels, height, width]; or `image`, a list of encoded files (PNG or JPEG) as bytes; or what a
            `PromptTask` puts to a model, lists of whatever JSON can hold.
        labels: int64 class indices, float32 targets, or the right answers as strings, [examples].
    """

    inputs: dict[str, Any]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | np.ndarray) -> Split:
        """Returns the examples at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        columns = {
            name: column[chosen] if isinstance(column, np.ndarray) else [column[i] for i in chosen]
            for name, column in self.inputs.items()
        }
        return Split(columns, self.labels[chosen])

    def first(self, count: int | None) -> Split:
        """Returns the first `count` examples, or as many as there are; None: all."""
        return self.take(range(min(len(self), count or len(self))))


@dataclass(frozen=True)
class Splits:
    """The three splits of a task, which never overlap.

    Attributes:
        train: for fine-tuning and calibration.
        selection: for every choice (epoch, alpha).
        report: for the numbers that are shown.
    """

    train: Split
    selection: Split
    report: Split

    def digest(self) -> str:
        """Returns a digest of every example of every split."""
        return self.digests()[-1]

    def digests(self) -> list[str]:
        """Returns a digest of every example of the first split, of the first two, and of all three."""
        return [*self._digests]

    @cached_property
    def _digests(self) -> list[str]:
        hashed, found = hashlib.sha256(), []
        for split in (self.train, self.selection, self.report):
            for column in (*split.inputs.values(), split.labels):
                hashed.update(_bytes_of(column))
            found.append(hashed.hexdigest()[:12])
        return found


def _bytes_of(column: Any) -> bytes:
    if isinstance(column, np.ndarray):
        return column.tobytes()
    if column and isinstance(column[0], bytes):
        return b"".join(hashlib.sha256(one).digest() for one in column)
    return json.dumps(column).encode()
