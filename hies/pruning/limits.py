"""What loading a folder of unknown origin may cost: its weights bound how large a model its configuration may build.

The headers of the safetensors are read first. They say how many numbers there are, and the file is as long as they say.
"""

import contextlib
import math
import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from hies.errors import HiesError

LONGEST_HEADER = 32 << 20  # bytes
LARGEST_COUNT = 100_000  # of layers, labels and the like, whatever the weights
LARGEST_LISTED = 1 << 20  # in lists, which hold tokens besides
LARGEST_DEPTH = 1000  # of layers: some configurations list them all for each
LAYER_NAMES = re.compile(r"^(?!.*size).*(?<![^_])(layers?|depths?)(_|$)")  # a size for each layer is no count of them
COUNT_NAMES = re.compile(r"^n_|(^|_)(num|layers?|depths?|blocks?|labels?)(_|$)")  # names of such counts
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What `save_pretrained` never writes, or what is decided here: other files, and code that takes the place of modules.
FOREIGN = (
    "transformers_weights",
    "fusion_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
)


class Weights(dict[str, Any]):
    """Tensors of safetensors files by name, each read when it is first used.

    Attributes:
        elements: of all tensors together.
        largest: the largest dimension of a tensor.
        dtype: of the first tensor of floating-point numbers, None without one.
    """

    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        for path in files:
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
            if length > LONGEST_HEADER:
                raise ValueError(f"the header of {path.name} is longer than {LONGEST_HEADER >> 20} MB")
            try:
                file: Any = safe_open(path, "pt")
            except SafetensorError as error:
                raise ValueError(f"{path.name} is no whole safetensors file ({error})") from error
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                if name in self:
                    raise ValueError(f"{path.name} holds {name} a second time")
                self[name] = file.get_slice(name)
        shapes = [part.get_shape() for part in self.values()]
        self.elements = sum(math.prod(shape) for shape in shapes)
        dtypes = (FLOATS.get(part.get_dtype()) for part in self.values())
        self.dtype = next((dtype for dtype in dtypes if dtype), None)
        self.largest = max((size for shape in shapes for size in shape), default=0)


def check_config(config: dict[str, Any], weights: Weights) -> dict[str, Any]:
    """Returns what a configuration says of the model itself, without files and code that it names.

    Raises:
        ValueError: a number of layers, labels or the like that has no place in the weights, or quantised weights.
    """
    for name, value, listed in _integers(config):
        least = LARGEST_LISTED if listed else LARGEST_COUNT
        layers = LAYER_NAMES.search(name) is not None  # each of them has a tensor
        if abs(value) > max(len(weights), *((LARGEST_DEPTH,) if layers else (least, weights.largest))):
            raise ValueError(f"its {name} is {value}, which the weights have no place for")
    if config.get("quantization_config"):
        raise ValueError("it has a quantization_config, but a pruned model is not quantised")
    return _without(config, FOREIGN)


def _integers(value: Any, name: str = "", listed: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Yields the integers that may be counts: those in lists, and those under such a name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _integers(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _integers(item, name, True)
    elif isinstance(value, int) and (listed or COUNT_NAMES.search(name)):
        yield name, value, listed


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return value


@contextlib.contextmanager
def building_at_most(weights: Weights) -> Iterator[None]:
    """Stops a model that registers far more in the block than the weights can be a part of.

    Before heads are cut out a model is larger than its weights, at most by its attention layers.
    """
    tensors, elements = 4 * len(weights) + 2000, 16 * weights.elements + (32 << 20)
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal tensors, elements
        if tensor is not None and threading.get_ident() == thread:
            tensors, elements = tensors - 1, elements - math.prod(tensor.shape)
            if tensors < 0 or elements < 0:
                raise HiesError("its config.json describes a far larger model than the weights are of")

    with contextlib.ExitStack() as stack:
        for register in (register_module_parameter_registration_hook, register_module_buffer_registration_hook):
            stack.callback(register(count).remove)
        yield


def check_size(model: nn.Module, weights: Weights) -> None:
    """Raises HiesError for a model that is much larger than its weights, or they than it."""
    tied: Any = getattr(model, "all_tied_weights_keys", None) or {}  # not tied yet, but saved once
    named = model.state_dict(keep_vars=True).items()
    saved = {id(tensor): tensor.numel() for name, tensor in named if name in weights or name not in tied}
    every = {id(tensor): tensor.numel() for tensor in model.buffers()}
    besides = sum(size for key, size in every.items() if key not in saved)
    if weights.elements > 1.2 * sum(saved.values()) + (1 << 20):
        raise HiesError("its weights are of a larger model than its config.json describes")
    if sum(saved.values()) > 1.2 * weights.elements + (1 << 20) or besides > 2 * weights.elements + (16 << 20):
        raise HiesError("its config.json describes a larger model than the weights are of")
