"""The forwards of modules: the names that their code uses, and how another forward takes their place."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any

from torch import nn


def names_used_by(module: nn.Module) -> frozenset[str]:
    """Returns the attributes (of any object) and globals that the methods of a module's class use, save `__init__`."""
    kind: Any = type(module)
    return _names_used_by(kind)


@functools.cache
def _names_used_by(kind: Any) -> frozenset[str]:
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    methods = [inspect.unwrap(method) for base in bases for method in vars(base).values() if inspect.isroutine(method)]
    codes = [getattr(method, "__code__", None) for method in methods if method.__name__ != "__init__"]
    return frozenset(name for code in codes if code for name in _names(code))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:  # inner functions and comprehensions
        if isinstance(constant, CodeType):
            yield from _names(constant)


@contextlib.contextmanager
def intercepted(layers: Sequence[nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    """Runs every layer as call(layer, its forward, ...) inside the block."""
    before = [vars(layer).get("forward") for layer in layers]  # there where a library has wrapped it, else None
    try:
        for layer in layers:
            vars(layer)["forward"] = functools.partial(call, layer, layer.forward)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                vars(layer)["forward"] = forward
