"""The forwards of modules: the names that their code uses, and how another forward takes their place."""

import contextlib
import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from types import CodeType
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from hies.errors import first_line

INTERFACE = "ALL_ATTENTION_FUNCTIONS"  # named where a module calls the attention function of its configuration


def lent(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns inputs of a model whose caches of keys and values may grow: the caller's stay as they are."""
    return {name: copy.deepcopy(value) if isinstance(value, Cache) else value for name, value in inputs.items()}


def unreadable(model: nn.Module, what: str, batch: Mapping[str, Any], error: Exception, remedy: str) -> str:
    """Returns what to say of inputs that a model cannot read.

    Args:
        model: that cannot.
        what: what it is called.
        batch: the inputs.
        error: of the model.
        remedy: what would work, unless the text is too long.
    """
    configs = (getattr(one, "config", None) for one in model.modules())
    most = min((getattr(one, "max_position_embeddings", None) or inf for one in configs), default=inf)
    tokens = batch.get("input_ids")
    if isinstance(tokens, Tensor) and tokens.dim() and tokens.shape[-1] > most:
        remedy = f"it has {tokens.shape[-1]} tokens and the model {most} positions: cut them (hies.batches max_length)"
    return f"{type(model).__name__} cannot read {what} ({type(error).__name__}: {first_line(error)}); {remedy}."


def names_used_by(module: nn.Module) -> frozenset[str]:
    """Returns the attributes (of any object) and globals that the methods of a module's class use, save `__init__`."""
    kind: Any = type(module)
    return _used_by(kind)[0]


def names_reached_by(module: nn.Module) -> frozenset[str]:
    """Returns those names, and those that the functions of the class's own file use which they name."""
    kind: Any = type(module)
    return _reached_by(kind)


@functools.cache
def _reached_by(kind: Any) -> frozenset[str]:
    source = getattr(sys.modules.get(kind.__module__), "__dict__", {})  # none of classes that were made elsewhere
    names, new = frozenset[str](), _used_by(kind)[0]
    while new:
        names |= new
        functions = [inspect.unwrap(source[name]) for name in new if inspect.isfunction(source.get(name))]
        own = [function for function in functions if function.__module__ == kind.__module__]
        codes = [inner for function in own for inner in with_inner(function.__code__)]
        new = frozenset(name for code in codes for name in code.co_names) - names
    return names


def tuples_used_by(module: nn.Module) -> frozenset[tuple[Any, ...]]:
    """Returns the tuples that are written down in the methods of a module's class, save `__init__`."""
    kind: Any = type(module)
    return _used_by(kind)[1]


@functools.cache
def _used_by(kind: Any) -> tuple[frozenset[str], frozenset[tuple[Any, ...]]]:
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    methods = [inspect.unwrap(method) for base in bases for method in vars(base).values() if inspect.isroutine(method)]
    codes = [getattr(method, "__code__", None) for method in methods if getattr(method, "__name__", "") != "__init__"]
    every = [inner for code in codes if code for inner in with_inner(code)]
    tuples = (constant for code in every for constant in code.co_consts if isinstance(constant, tuple))
    return frozenset(name for code in every for name in code.co_names), frozenset(tuples)


def with_inner(code: CodeType) -> Iterator[CodeType]:
    """Yields the code of a function, and that of the functions written down in it."""
    yield code
    for constant in code.co_consts:  # inner functions and comprehensions
        if isinstance(constant, CodeType):
            yield from with_inner(constant)


@functools.cache  # it is asked for every mask
def arguments_of(kind: Any) -> tuple[str, ...]:
    """Returns the names of what the forward of a class of modules takes by its place, in order."""
    parameters = [*inspect.signature(kind.forward).parameters.values()][1:]
    return tuple(one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
