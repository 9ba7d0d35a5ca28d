"""From encoded examples to padded batches, sorted by length so that little is computed on padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


def padding_id(model: nn.Module) -> int | None:
    """Returns the token that a model takes for padding where it sees one; None if its configuration names no token."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    token, words = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None) or float("inf")
    return token if token is not None and 0 <= token < words else None  # older configurations have -1 for none


@dataclass(frozen=True)
class Encoded:
    """Examples as a model takes them, not yet padded.

    Attributes:
        features: one dict of tensors an example, without a batch dimension.
        pad: the value that fills each feature up; 0 where none is named.
        lengths: the length of each example where it is known without its features, such as 1 for images; None: an
            example is as long as its first feature.
    """

    features: Sequence[Batch]
    pad: dict[str, int]
    lengths: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def length(self, index: int) -> int:
        """Returns the tokens of an example; 1 for images."""
        return len(next(iter(self.features[index].values()))) if self.lengths is None else self.lengths[index]

    def padded_for(self, model: nn.Module) -> "Encoded":
        """Returns the same examples, filled up with what this model takes for padding.

        Classifiers on decoders look for it to find the last word: what is filled up with another token, such as the
        tokenizer's own, is read as text.
        """
        token = padding_id(model)
        if token is None or "input_ids" not in self.pad:
            return self
        return replace(self, pad={**self.pad, "input_ids": token})

    def batch(self, indices: np.ndarray | list[int]) -> Batch:
        """Returns one padded batch of some examples; the labels are always `labels`."""
        chosen = [self.features[i] for i in indices]
        return {name: _stack([feature[name] for feature in chosen], self.pad.get(name, 0)) for name in chosen[0]}

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yields every example once, similar lengths together: (indices of the examples, batch on `device`)."""
        by_length = np.argsort([self.length(i) for i in range(len(self))], kind="stable")
        for start in range(0, len(self), size):
            indices = by_length[start : start + size]
            yield indices, {name: tensor.to(device) for name, tensor in self.batch(indices).items()}


def _stack(tensors: list[Tensor], value: int) -> Tensor:
    if tensors[0].dim() != 1:
        return torch.stack(tensors)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
