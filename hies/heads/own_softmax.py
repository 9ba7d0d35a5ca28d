"""The second way to the heads: attention modules that compute a softmax of their own.

A torch function mode sees what such a module does: the softmax (or torch's scaled_dot_product_attention), what becomes
of it, and the product with the values, which is the output of the heads. No class is named. What is seen is trusted
only after a trial, once for each module: with the outputs of all heads at zero, zeros must reach its next projection.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from hies.errors import UnsupportedModelError, brief
from hies.heads.calls import Call, SoftmaxCall, describe, first_count, with_weights
from hies.heads.conventions import HEAD_COUNTS
from hies.heads.inputs import copied, harmless, is_written, remember, windows_of
from hies.heads.layouts import (
    MOVES,
    PRODUCTS,
    SameLengthError,
    UnknownLayoutError,
    WeightLayout,
    check_order_kept,
    has_columns_at_zero,
    keeps_order,
    layouts_of,
    place_of_layout,
    product_output,
)  # fmt: skip
from hies.heads.pruned import PrunedHeads
from hies.precision import chance_kept

SOFTMAXES = {torch.softmax, torch.special.softmax, torch.Tensor.softmax, F.softmax}
TORCH_ATTENTION = inspect.signature(F.multi_head_attention_forward)
MIXING = {F.linear, F.conv1d, F.conv2d, torch.conv1d, torch.conv2d}

Handle = Callable[[nn.Module, Call, Tensor], Tensor]  # (module, call, output [rows, queries, heads, width]) -> output


class _Current(threading.local):
    """The mode that watches the forward pass of this thread."""

    watch: "_Watch | None" = None


_current = _Current()
NO_ATTENTION = "it computes no attention"
EVER, MORE_ROWS, NEXT = "ever", "more rows", "next"  # how long a verdict holds: until a call of several rows, or any
# Of the trial of each module: why its heads are not handled, "" where they are, and how long that holds.
_verdicts: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()


def why_not_seen(module: nn.Module) -> str:
    """Returns why the heads of a module that has run are not handled, an empty string where they are."""
    return _verdicts.get(module, ("", EVER))[0]


@torch.compiler.disable  # its graph would hold the identities of tensors (Falcon's weight.T is another one each time)
def watched(handle: Handle, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs the forward pass of a module, and passes the outputs of its heads through `handle`."""
    pruned = PrunedHeads.of(module)
    if pruned is not None and not pruned.heads:
        return forward(*args, **kwargs)
    _, until = _verdicts.get(module, ("", NEXT))
    if until == NEXT or (until == MORE_ROWS and _rows(args, kwargs) > 1):
        _verdicts[module] = _trial(module, forward, args, kwargs)
    if why_not_seen(module):
        return forward(*args, **kwargs)
    return _run(_Run(module, handle, windows=windows_of(module, args, kwargs)), forward, args, kwargs)


def _rows(*arguments: Any) -> int:
    return next((len(leaf) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.dim()), 0)


def without(heads: Sequence[int], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Returns what a module that was found to have these heads computes while their outputs are zero."""
    return _run(_Run(module, lambda module, call, output: _silenced(heads, output)), module.forward, args, kwargs)


def _silenced(heads: Sequence[int], output: Tensor) -> Tensor:
    return output.index_fill(2, torch.tensor(heads, device=output.device), 0)  # [rows, queries, heads, width]


def unwatched(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function of another module inside one that is watched."""
    watch = _current.watch
    if watch is None:
        return function(*args, **kwargs)
    watch.runs.append(None)
    try:
        return function(*args, **kwargs)
    finally:
        watch.runs.pop()


def _run(run: "_Run", forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Runs a forward pass that is watched by `run`, maybe inside that of another module."""
    outer = _current.watch
    watch = outer or _Watch()
    watch.runs.append(run)
    try:
        if outer is not None:
            return forward(*args, **kwargs)
        _current.watch = watch
        with watch:
            return forward(*args, **kwargs)
    except UnknownLayoutError as error:
        name = type(run.module).__name__
        raise UnsupportedModelError(f"The heads of {name} cannot be told apart: it has {error}.") from None
    finally:
        watch.runs.pop()
        _current.watch = outer


@torch.no_grad()
def _trial(module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> tuple[str, str]:
    """Returns why the heads of a module cannot be handled, or an empty string; and how long that holds.

    Its forward runs twice more, with the outputs of all heads at zero, and with one head at zero. Then the same columns
    must be zero for all examples, which they are not where an axis of rows and heads holds all rows of a head before
    the next head, or rows alone.
    """
    remember(module, args, kwargs)
    why = ""
    for spared in (harmless, copied):  # without what it would write into (a cache), or with a copy of that
        try:
            return _tried(module, partial(_spared, spared, forward, args, kwargs))
        except torch.OutOfMemoryError:
            raise
        except UnsupportedModelError as error:
            until = NEXT if isinstance(error.__context__, SameLengthError) else EVER
            return str(error).partition(": ")[2].rstrip(".") or str(error), until
        except Exception as error:
            why = why or f"its forward cannot be run twice ({brief(error)})"
    return why, NEXT


def _spared(spared: Callable[[Any], Any], forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    args, kwargs = tree_map(spared, (args, kwargs), is_leaf=is_written)
    return forward(*args, **kwargs)


def _tried(module: nn.Module, forward: Callable[[], Any]) -> tuple[str, str]:
    run, calls, ends = _rehearsed(module, forward, torch.zeros_like)
    if not calls:
        return run.unlike or NO_ATTENTION, NEXT
    if any(end.is_meta for end in ends):
        return "", NEXT
    if not ends:
        return "what becomes of the output of its heads is not seen", EVER
    if any(bool(end.any()) for end in ends):
        return "it hands on more than the output of its heads", EVER
    *_, of_one = _rehearsed(module, forward, partial(_silenced, [0]))
    heads = first_count(module, HEAD_COUNTS) or 1
    if not all(has_columns_at_zero(end, heads, run.columns) for end in of_one):
        return "its heads do not lie side by side in what is projected", EVER
    return "", MORE_ROWS if run.in_one_axis and calls[0].rows == 1 else EVER  # one row tells nothing of the order


def _rehearsed(
    module: nn.Module, forward: Callable[[], Any], change: Callable[[Tensor], Tensor]
) -> tuple["_Run", list[Call], list[Tensor]]:
    """Runs a forward with changed outputs of its heads; returns its calls, and where what comes from these ends."""
    calls: list[Call] = []

    def handle(module: nn.Module, call: Call, output: Tensor) -> Tensor:
        calls.append(call)
        return change(output)

    run = _Run(module, handle, follows=True)
    watch, _current.watch = _current.watch, None
    try:
        with chance_kept():  # dropout draws the same numbers as it would have
            result = _run(run, forward, (), {})
    finally:
        _current.watch = watch
    return run, calls, [*run.projected, *(leaf for leaf in tree_leaves(result) if id(leaf) in run.outputs)]


class _Watch(TorchFunctionMode):
    """Hands what the innermost watched module calls to its run."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[_Run | None] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = self.runs[-1] if self.runs else None
        return run.see(function, args, kwargs or {}) if run else function(*args, **(kwargs or {}))


class _Run:
    """One forward pass of a module: which tensors come from its softmax, and from the outputs of its heads.

    Attributes:
        module: whose pass it is.
        follows: note where the outputs of the heads end.
        outputs: id of a tensor that comes from the outputs of the heads -> itself.
        projected: such tensors that met a parameter.
        columns: how many the outputs of all heads have together.
        in_one_axis: rows and heads of its softmax are in one axis.
        unlike: why an attention that was met is not taken for that of its heads; "" where none was.
        windows: the mask of shifted windows that the module was called with.
    """

    def __init__(self, module: nn.Module, handle: Handle, follows: bool = False, windows: Tensor | None = None) -> None:
        self.module, self.follows, self.windows = module, follows, windows
        self.outputs: dict[int, Tensor] = {}
        self.projected: list[Tensor] = []
        self.columns: set[int] = set()
        self.in_one_axis = False
        self.unlike = ""
        self._handle = handle
        self._heads = first_count(module, HEAD_COUNTS) or 0
        # By id of a tensor: itself, the layouts that fit, the call by each.
        self._weights: dict[int, tuple[Tensor, list[WeightLayout], list[SoftmaxCall]]] = {}
        # By id of a tensor whose axes are those of its softmax: that softmax, and its version then.
        self._softmax: dict[int, tuple[Tensor, int]] = {}

    def see(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Calls a torch function in the place of the module."""
        if function is F.multi_head_attention_forward:
            return self._torch_attention(args, kwargs)
        result = function(*args, **kwargs)
        if function in SOFTMAXES:
            self._note_softmax(result, *args, **kwargs)
            return result
        if function is F.scaled_dot_product_attention:
            return self._fused(result, *args, **kwargs)
        tensors = list(_tensors((*args, *kwargs.values())))
        used = [one for one in tensors if id(one) in self._weights]
        if used:
            check_order_kept(self._weights[id(used[0])][1], function, used[0], args, kwargs)
            return self._follow_weights(function, args, tensors, used, result)
        if self.follows and any(id(one) in self.outputs for one in tensors):
            self._follow_outputs(tensors, result)
        return result

    def _call_of(self, by: WeightLayout, of: Tensor, dtype: torch.dtype) -> SoftmaxCall:
        return SoftmaxCall(self.module, lambda: by.to_scores(of.to(dtype)), by.rows, by.heads, by.block, self.windows)

    def _note_softmax(self, result: Tensor, input: Tensor, dim: int | None = None, *_: Any, **options: Any) -> None:
        layouts = [] if dim is None or (dim + 1) % result.dim() else layouts_of(result.shape, self._heads)
        self.in_one_axis |= bool(layouts) and result.dim() == 3
        if not layouts:
            axes = f"over axis {dim} of {tuple(result.shape)}"
            self.unlike = f"{NO_ATTENTION} of {self._heads} heads (its softmax is {axes})"
        else:
            self._weights[id(result)] = result, layouts, [self._call_of(one, input, result.dtype) for one in layouts]
            self._softmax[id(result)] = result, result._version

    def _follow_weights(self, function: Any, args: Any, tensors: list[Tensor], used: list[Tensor], result: Any) -> Any:
        _, layouts, calls = self._weights[id(used[0])]
        if any(self._weights[id(one)][2] is not calls for one in used):
            raise UnknownLayoutError("attention that mixes several softmaxes")
        if function in PRODUCTS:
            if len(used) > 1 or any(id(one) in self.outputs for one in tensors):
                raise UnknownLayoutError("a product of several softmaxes")
            if any(map(_is_parameter, tensors)):
                raise UnknownLayoutError("a product of its softmax with a parameter")
            place = place_of_layout(layouts, function, args, used[0], result)
            output, back = product_output(function, args, layouts[place], used[0], result)
            softmax, version = self._softmax.get(id(used[0]), (used[0], used[0]._version))
            if used[0] is not softmax or softmax._version != version:
                calls[place] = with_weights(calls[place], used[0], softmax.shape, layouts[place].to_scores)
            self._softmax = {key: value for key, value in self._softmax.items() if value[0] is not softmax}
            return self._handled(calls[place], output, back, result)
        if function in MIXING:
            raise UnknownLayoutError("a product of its softmax with a parameter")
        for tensor in _tensors((result,)):
            self._weights[id(tensor)] = tensor, layouts, calls
            kept = next((one for one in used if keeps_order(tensor, one)), None)
            if function not in MOVES and id(kept) in self._softmax:
                self._softmax[id(tensor)] = self._softmax[id(kept)]
        return result

    def _handled(self, call: Call, output: Tensor, back: Callable[[Tensor], Tensor], result: Tensor) -> Tensor:
        changed = self._handle(self.module, call, output)
        result = result if changed is output else back(changed)
        self.columns.add(output.shape[2] * output.shape[3])
        if self.follows:
            self.outputs[id(result)] = result
        return result

    def _follow_outputs(self, tensors: list[Tensor], result: Any) -> None:
        if any(map(_is_parameter, tensors)):
            self.projected += [one for one in tensors if id(one) in self.outputs]
            return
        for tensor in _tensors((result,)):
            if tensor.is_floating_point():
                self.outputs[id(tensor)] = tensor

    def _fused(
        self, result: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0, is_causal: bool = False, scale: float | None = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        """Handles what torch's scaled_dot_product_attention gave, [rows, heads, queries, width]."""
        if result.dim() != 4 or result.shape[1] != self._heads:
            self.unlike = f"its fused attention gives {tuple(result.shape)}, not [rows, {self._heads} heads, ...]"
            return result
        call = describe(self.module, query, key, attn_mask, {"is_causal": is_causal, "scaling": scale})
        return self._handled(call, result.transpose(1, 2), lambda output: output.transpose(1, 2), result)

    def _torch_attention(self, args: Any, kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Runs torch's own attention without its output projection, which comes after its heads are handled."""
        given = TORCH_ATTENTION.bind(*args, **kwargs)
        given.apply_defaults()
        weight, bias = given.arguments["out_proj_weight"], given.arguments["out_proj_bias"]
        given.arguments |= {"out_proj_weight": torch.eye(weight.shape[1]).to(weight), "out_proj_bias": None}
        output, weights = F.multi_head_attention_forward(*given.args, **given.kwargs)
        heads = given.arguments["num_heads"]

        def scores() -> Tensor:
            given.arguments |= {"need_weights": True, "average_attn_weights": False}
            with torch.no_grad():
                found: Any = F.multi_head_attention_forward(*given.args, **given.kwargs)[1]
            return found.reshape(-1, *found.shape[-3:]).log()  # a batch of one may have come without its axis

        by_head = output.unflatten(-1, (heads, -1))  # [queries, (rows,) heads, width]
        by_head = by_head.transpose(0, 1) if by_head.dim() == 4 else by_head[None]
        call = SoftmaxCall(self.module, scores, len(by_head), heads)
        changed = self._handle(self.module, call, by_head)
        self.columns.add(output.shape[-1])
        if self.follows:
            self.projected.append(changed)
        if changed is not by_head:
            changed = changed.transpose(0, 1) if output.dim() == 3 else changed[0]
            output = changed.reshape(output.shape)
        return F.linear(output, weight, bias), weights


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)  # a view, as Falcon's weight.T


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (one for one in value if isinstance(one, Tensor))
