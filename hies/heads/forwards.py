"""The forwards of modules: what they look up by name, read off their code, and how another takes their place."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any

from torch import nn


def reads(module: nn.Module) -> frozenset[str]:
    """The attributes (of any object) and globals that the methods of a module's class look up, save `__init__`."""
    kind: Any = type(module)
    return _reads(kind)


@functools.cache
def _reads(kind: Any) -> frozenset[str]:
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    methods = [inspect.unwrap(method) for base in own for method in vars(base).values() if inspect.isroutine(method)]
    codes = [getattr(method, "__code__", None) for method in methods if method.__name__ != "__init__"]
    return frozenset(name for code in codes if code for name in _names(code))


def _names(code: CodeType) -> Iterator[str]:
    """Inner functions and comprehensions have code of their own."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@contextlib.contextmanager
def wrapped(layers: Sequence[nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    """Every layer runs as call(layer, its own forward, ...) inside the block."""
    before = [vars(layer).get("forward") for layer in layers]  # of its own where a library has wrapped it, else None
    try:
        for layer in layers:
            vars(layer)["forward"] = functools.partial(call, layer, layer.forward)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                vars(layer)["forward"] = forward
