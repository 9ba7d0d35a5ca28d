"""The examples of a calibration batch: how many there are, and each of them as a batch of its own."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hies.errors import HiesError, ParameterError

# What has one row an example wherever it is given, by the number of dimensions that it has at least. The rest of a
# batch (pictures, tiles, chunks of sound) may have several rows of an example, or none.
_DIMENSIONS = {"labels": 1, "input_ids": 2, "inputs_embeds": 3}


def check_batches(batches: Any) -> None:
    """Raises HiesError for what is no iterable of batches."""
    if not isinstance(batches, Iterable):
        raise ParameterError("batches", batches, "give an iterable of dicts that the model accepts")
    if isinstance(batches, Mapping):
        raise HiesError("batches is a single dict; give an iterable of them, such as [batch].")


def examples_in(batch: Mapping[str, Any]) -> int:
    """Returns the number of examples of a calibration batch, in whatever order its items stand.

    Raises:
        HiesError: the batch is no dict, has no example, or has rows without a batch dimension.
    """
    if not isinstance(batch, Mapping):
        raise ParameterError("batches", [type(batch).__name__], "a batch is a dict of what the model's forward takes")
    if not batch:
        raise HiesError("A calibration batch is an empty dict; give what the model reads.")
    sizes = {
        name: _rows_of(name, batch[name], least) for name, least in _DIMENSIONS.items() if batch.get(name) is not None
    }
    if not sizes:
        first = next((name for name, value in batch.items() if _has_rows(value)), None)
        if first is None:
            raise HiesError(f"A calibration batch has no tensor with rows of examples among {', '.join(batch)}.")
        sizes = {first: len(batch[first])}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{size} rows of {name!r}" for name, size in sizes.items())
        raise HiesError(f"A calibration batch has {counts}; give each example one row of each.")
    size = next(iter(sizes.values()))
    if not size:
        raise HiesError("A calibration batch has no example; leave it out.")
    return size


def single_examples(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns every example as a batch of one, views of the batch's tensors; padding stays on."""
    size = examples_in(batch)
    return [{name: _rows(name, value, i, size) for name, value in batch.items()} for i in range(size)]


def doubled(example: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch of one example that has it twice."""
    return {name: _twice(name, value) for name, value in example.items()}


def _rows_of(name: str, value: Any, least: int) -> int:
    """Returns the rows of an item that needs `least` dimensions, the first of which is the batch's."""
    if isinstance(value, Tensor):
        if value.dim() < least:
            shape = tuple(value.shape)
            raise HiesError(f"{name!r} has the shape {shape} without a batch dimension; give {name}[None] instead.")
    elif not (isinstance(value, list | tuple) and all(isinstance(row, Mapping | Tensor) for row in value)):
        raise ParameterError(name, type(value).__name__, "give a torch tensor")
    return len(value)


def _has_rows(value: Any) -> bool:
    return bool(value.dim()) if isinstance(value, Tensor) else isinstance(value, list | tuple)


def _rows(name: str, value: Any, i: int, size: int) -> Any:
    """Returns the rows of example i of `size`; a model may read several (pictures, patches) of each."""
    if isinstance(value, Mapping):  # a mask for each kind of layer
        return {kind: _rows(kind, one, i, size) for kind, one in value.items()}
    if not _has_rows(value):
        return value
    if _is_positions(name, value):
        return value[:, i : i + 1]
    if len(value) % size:
        raise HiesError(f"A batch has {len(value)} rows of {name!r} for {size} examples, which cannot be told apart.")
    each = len(value) // size
    return value[i * each : (i + 1) * each]


def _twice(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {kind: _twice(kind, one) for kind, one in value.items()}
    if not _has_rows(value):
        return value
    if isinstance(value, Tensor):
        return torch.cat([value, value], dim=1 if _is_positions(name, value) else 0)
    return [*value, *value]


def _is_positions(name: str, value: Any) -> bool:
    """Returns True for positions of [times, heights and widths; examples; tokens]."""
    return name == "position_ids" and isinstance(value, Tensor) and value.dim() == 3
