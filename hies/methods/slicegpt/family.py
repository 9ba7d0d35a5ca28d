"""What slicing has to know of an architecture: where the residual starts, and what in a layer reads and writes it."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hies.heads.matrices import is_plain_matrix, is_quantised
from hies.methods.slicegpt.calls import Calls


class CannotSliceError(Exception):
    """A model cannot be sliced; the message ends the sentence "X cannot be sliced: its ..."."""


class Family(ABC):
    """The parts of one model. A subclass raises `CannotSliceError` where a part is not as it has to be.

    Attributes:
        layers: the list of its layers.
        first: the module that reads the signal of the first place.
        width: d, the dimensions of the residual.
        attention: the attention modules in order.
    """

    layers: Any
    first: Any
    width: int
    attention: Sequence[nn.Module]

    @abstractmethod
    def __init__(self, model: PreTrainedModel) -> None: ...

    @staticmethod
    @abstractmethod
    def fits(model: PreTrainedModel) -> bool:
        """Returns True if the model's layers look like those of this family."""

    @abstractmethod
    def slice(self, calls: Calls) -> None:
        """Rotates and cuts the residual in place, each basis from the signal that comes out of the part already cut."""


def have_parts(layers: Any, paths: Collection[str]) -> bool:
    """Returns True for a list of layers that all have parts of these names."""
    is_list = isinstance(layers, nn.ModuleList) and len(layers) > 0
    return is_list and all(_part(layer, path) is not None for layer in layers for path in paths)


def check_children(module: nn.Module, known: Collection[str]) -> None:
    """Refuses a model with a part, besides those known, that has weights: it might read or write the residual."""
    for name, child in module.named_children():
        if name not in known and any(True for _ in child.parameters()):
            raise CannotSliceError(f"its part {name!r} is not known")


def check_layer(layer: nn.Module, linears: Collection[str], others: Collection[str]) -> None:
    """Refuses a layer whose weights are not exactly those of `linears` and (they may be missing) of `others`."""
    for name in linears:
        matrix = _part(layer, name)
        if isinstance(matrix, nn.Module) and is_quantised(matrix):
            raise CannotSliceError(f"its {name!r} is quantised or sharded")
        if not (isinstance(matrix, nn.Linear) and is_plain_matrix(matrix)):
            raise CannotSliceError(f"its layers have no plain matrix {name!r}")
    for name, _ in layer.named_parameters():
        owner = name.rpartition(".")[0]
        if owner not in linears and owner not in others:
            raise CannotSliceError(f"its layers have weights {name!r} whose place in the residual is not known")


def _part(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)  # type: ignore[assignment]
    return module
