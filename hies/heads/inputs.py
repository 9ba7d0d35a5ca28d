"""What modules that compute their softmax by themselves were called with, in outline, so that they can be run again."""

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from hies.heads.calls import HIDDEN
from hies.heads.forwards import arguments_of

Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # positional arguments, arguments by name
# Numbers as shapes, indices and masks as they were: of modules, and for a copy, of the last module of its kind.
_calls: WeakKeyDictionary[nn.Module, Inputs] = WeakKeyDictionary()
_calls_of_kinds: dict[Any, Inputs] = {}
_copies = WeakTensorKeyDictionary()  # of the masks that the layers of a model share: one for all of them


def is_written(value: Any) -> bool:
    """Returns True for what a forward pass would write into: a cache."""
    return hasattr(value, "update") and not isinstance(value, dict | Tensor)


def harmless(value: Any) -> Any:
    """Returns a copy of an argument, None for what would be written into."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return None if is_written(value) else copy.copy(value)


def copied(value: Any) -> Any:
    """Returns a copy of an argument, of what would be written into as well."""
    return copy.deepcopy(value) if is_written(value) else harmless(value)


def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keeps the outline of a call of a module, or of modules of its class and shapes."""
    _calls[module] = _calls_of_kinds[_kind(module)] = tree_map(_outline, (args, kwargs), is_leaf=is_written)


def inputs_like(module: nn.Module, taker: nn.Module) -> Inputs | None:
    """Returns random numbers of the shapes of a call of a module, as `taker`, a copy of it, takes them.

    Indices and masks are those of the call. None where no call is known.
    """
    call = _calls.get(module) or _calls_of_kinds.get(_kind(module))
    weight = next(taker.parameters())
    leaves = tree_leaves(call)
    if call is None or any(one.is_meta for one in leaves if isinstance(one, Tensor) and not one.is_floating_point()):
        return None
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_meta:
            return torch.randn(value.shape, generator=generator, dtype=weight.dtype).to(weight.device)
        if value.is_floating_point():
            value = value.clamp(min=torch.finfo(weight.dtype).min).to(weight.dtype)
        return value.to(weight.device, copy=True)

    return tree_map(drawn, call)


def windows_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Returns what a module is called with to add to the scores of shifted windows, [windows, queries, keys], if it is.

    It is told by its name and form: hidden states may have the same form.
    """
    kind: Any = type(module)
    given = {**dict(zip(arguments_of(kind), args, strict=False)), **kwargs}.get("attention_mask")
    return given if isinstance(given, Tensor) and given.dim() == 3 and given.is_floating_point() else None


def _outline(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.is_meta:
        return harmless(value)
    if value.is_floating_point() and not bool((value <= HIDDEN).any()):  # numbers, and no mask
        return value.detach().to("meta")
    if value not in _copies:
        _copies[value] = harmless(value)
    return _copies[value]


def _kind(module: nn.Module) -> Any:
    return type(module), *(parameter.shape for parameter in module.parameters())
