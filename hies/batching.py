"""From the examples of a split to padded batches, sorted by length so that little is computed on padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hies.tasks.base import Split

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Encoded:
    """Examples as a model takes them, not yet padded.

    features: one dict of tensors an example, without a batch dimension. pad: the value that fills each feature up.
    """

    features: list[Batch]
    pad: dict[str, int]

    def __len__(self) -> int:
        return len(self.features)

    def length(self, index: int) -> int:
        """Tokens of an example (for images: constant)."""
        return len(next(iter(self.features[index].values())))

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


def encode(split: Split, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Encoded:
    """Tokenise a text split (truncated to `max_length` tokens), or take an image split as it is."""
    labels = torch.as_tensor(split.labels)
    if tokenizer is None:
        pixels = torch.as_tensor(split.inputs["pixel_values"])
        rows: list[Batch] = [{"pixel_values": p, "labels": y} for p, y in zip(pixels, labels, strict=True)]
        return Encoded(rows, {})
    columns: list[Any] = [split.inputs[name] for name in ("text", "text_pair") if name in split.inputs]
    tokens = tokenizer(*columns, truncation=True, max_length=max_length)
    rows = [
        {**{name: torch.tensor(values[i]) for name, values in tokens.items()}, "labels": labels[i]}
        for i in range(len(split))
    ]
    return Encoded(rows, {"input_ids": int(tokenizer.pad_token_id or 0)})  # type: ignore[arg-type]


def _stack(tensors: list[Tensor], value: int) -> Tensor:
    if tensors[0].dim() != 1:
        return torch.stack(tensors)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
