"""Copies of models that stand for themselves: what would still compute with the modules of the original is refused."""

import contextlib
import copy
import dis
import functools
import inspect
import sys
import types
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from types import CodeType
from typing import Any, TypeVar

from torch import Tensor, nn

from hies.errors import UnsupportedModelError
from hies.heads.forwards import with_inner

AnyModule = TypeVar("AnyModule", bound=nn.Module)
_TREE = {"_modules", "_parameters", "_buffers"}  # of a module; all modules of a model are looked at one by one
_PLAIN = (str, bytes, int, float, complex, type(None), Tensor)  # which lead nowhere
_CONTAINERS = (list, tuple, set, frozenset, deque)
_CACHED: Any = type(functools.lru_cache(print))
# Whose globals hold no model, or one that their functions look at and do not run (hies.heads.attention).
_LIBRARIES = {"hies", "torch", "transformers", "accelerate", "peft", "numpy", *sys.stdlib_module_names} - {"__main__"}
_NONE: frozenset[str] = frozenset()
Lead = tuple[Any, frozenset[str] | None]  # a value, and the attributes of it that some code asks for; None: all


def independent_copy(model: AnyModule, doing: str, otherwise: str = "") -> AnyModule:
    """Returns a copy of a model that computes with its own modules alone.

    A copy keeps functions as they are, and the variables that they close over: a forward that was wrapped by a closure
    runs the original's modules there, whatever is cut out of the copy.

    Args:
        model: any.
        doing: what needs the copy, for the message.
        otherwise: what helps besides, for the message.

    Raises:
        UnsupportedModelError: something in the copy reaches the original.
    """
    twin = copy.deepcopy(model)
    if found := left_behind(twin, model):
        raise UnsupportedModelError(
            f"{doing} copies this {type(model).__name__}, and its {found} holds a function or reference that reaches "
            f"the original's modules from the copy, too; undo that wrapping before{otherwise}."
        )
    return twin


def left_behind(twin: nn.Module, original: nn.Module) -> str:
    """Returns the first attribute of a copy's modules that reaches modules of the original; "" where none does."""
    originals = {id(module) for module in original.modules()}
    for name, module in twin.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in _TREE and _reaches(value, originals):
                return f"{name}.{attribute}".removeprefix(".")
    return ""


def _reaches(value: Any, originals: Collection[int]) -> bool:
    """Returns True if a value is one of the original modules, or leads to one by what its code names."""
    queue: list[Lead] = [(value, None)]
    seen: dict[Any, Any] = {}  # holds the values, so that no other one gets the id of one that was seen
    while queue:
        value, asked = queue.pop()
        if isinstance(value, _PLAIN) or (id(value), asked) in seen:
            continue
        seen[id(value), asked] = value
        if isinstance(value, nn.Module) and any(id(module) in originals for module in value.modules()):
            return True
        queue += _leads(value, asked)
    return False


def _leads(value: Any, asked: frozenset[str] | None) -> Iterator[Lead]:
    if isinstance(value, types.FunctionType):
        yield from _each(_variables(value), _names_in(value))
        # not all of them: functools.wraps leaves the function that it wraps, for those who read signatures
        yield from _attributes(value, asked or _NONE)
    elif isinstance(value, types.MethodType):
        yield from _bound(value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from _each([value.func, value.args, value.keywords], asked)
    elif isinstance(value, _CACHED):
        yield value.__wrapped__, asked
    elif isinstance(value, weakref.ref):
        yield value(), asked
    elif isinstance(value, _CONTAINERS):
        yield from _each(value, asked)
    elif isinstance(value, dict):
        yield from _each([*value.keys(), *value.values()], asked)
    elif isinstance(value, nn.Module):  # its parts are no originals
        yield from _attributes(value, asked or _NONE)
    elif not _is_of_library(value):
        yield from _attributes(value, asked)


def _each(values: Iterable[Any], asked: frozenset[str] | None) -> Iterator[Lead]:
    return ((value, asked) for value in values)


def _bound(function: Any, owner: Any) -> Iterator[Lead]:
    """Yields a method, and what it asks its object for."""
    yield from ((function, _NONE), (owner, _names_in(function)))


def _attributes(value: Any, asked: frozenset[str] | None) -> Iterator[Lead]:
    """Yields the attributes of an object that are asked for, and its methods; no property is computed."""
    own = getattr(value, "__dict__", {})
    yield from _each([one for name, one in [*own.items()] if asked is None or name in asked], asked)
    if isinstance(value, type | types.ModuleType | types.FunctionType):
        return
    for name in {*(asked or _NONE), "forward" if isinstance(value, nn.Module) else "__call__"}:
        method = inspect.getattr_static(type(value), name, None)
        method = method.fget if isinstance(method, property) else method
        if isinstance(method, types.FunctionType):
            yield from _bound(method, value)


def _is_of_library(value: Any) -> bool:
    """Returns True for what a library made, but for objects that are called: they may wrap other functions."""
    if isinstance(value, types.ModuleType):
        name = value.__name__
    else:
        name = (value if isinstance(value, type) else type(value)).__module__
    return name.partition(".")[0] in _LIBRARIES and (isinstance(value, type) or not callable(value))


def _variables(function: types.FunctionType) -> Iterator[Any]:
    """Yields what a function closes over, its defaults, and the globals that it names, unless a library wrote it."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it may be empty
            yield cell.cell_contents
    yield from (function.__defaults__, function.__kwdefaults__)
    if (function.__module__ or "").partition(".")[0] not in _LIBRARIES:
        yield from (function.__globals__.get(name) for name in _globals_in(function.__code__))


def _names_in(function: Any) -> frozenset[str]:
    """Returns what the code of a function asks for by name, of whatever object."""
    code = getattr(function, "__code__", None)
    return frozenset(name for one in with_inner(code) for name in one.co_names) if code else _NONE


@functools.cache
def _globals_in(code: CodeType) -> frozenset[str]:
    every = (one for inner in with_inner(code) for one in dis.get_instructions(inner))
    return frozenset(one.argval for one in every if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
