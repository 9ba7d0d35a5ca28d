"""The one place that touches transformers' attention: find the heads of a model, gate them, observe them.

transformers routes attention through a registry of functions. The function registered here calls the one that the
model would have used and lets handlers see its inputs and change its output, so no architecture needs code of its own.
Everything is switched on inside context managers, which put back what was there.
"""

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from hies.errors import HiesError, ParameterError, UnsupportedModelError
from hies.heads.branches import branching_mask
from hies.heads.calls import Call, Handler, describe, key_heads_of
from hies.heads.configuration import BASES, NAME_PREFIX, SiteConfig, eager_name
from hies.heads.forwards import intercepted, lent, unreadable
from hies.heads.implementations import check_still_switched, configs_of, is_switched, restored, switch
from hies.heads.own_softmax import unwatched, watched, why_not_seen
from hies.heads.pruned import PrunedHeads
from hies.heads.recognition import computes_attention, without_count
from hies.heads.sites import Site
from hies.heads.unseen import noting_runs, warn_of_unseen
from hies.heads.weights import check_weights_are_here


@dataclass(frozen=True, eq=False)
class _Block:
    """An open `handling` block.

    Attributes:
        names: module -> its name, of the modules that are handled.
        configs: those that are switched.
        handler: of their attention calls.
    """

    names: Mapping[nn.Module, str]
    configs: Collection[Any]
    handler: Handler

    def meets(self, other: "_Block") -> bool:
        """Returns True if the two change the same model: a module, or a configuration that two models share."""
        configs = {id(config) for config in self.configs} & {id(config) for config in other.configs}
        return bool(configs or self.names.keys() & other.names.keys())

    def handled(self, module: nn.Module, call: Call | None, output: Tensor) -> Tensor:
        """Returns what the handler makes of the output of a module's heads."""
        if module in self.names and call is not None:
            _check_own(self, module)
            return self.handler(self.names[module], call, output)
        if getattr(module, "_is_replica", False):
            raise HiesError("torch.nn.DataParallel copies the model, and the copies know of no mask; use one device.")
        return output


# Replaced, never changed, since several threads may read it while one opens a block.
_active: tuple[_Block, ...] = ()
_lock = threading.Lock()
_watched: set[nn.Module] = set()
_own: ContextVar[tuple[_Block, ...]] = ContextVar("open blocks of this thread or task", default=())


def _attention(
    base: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function that transformers calls while a context of this module is open."""
    pruned = PrunedHeads.of(module)
    if pruned is not None:
        if not pruned.heads:  # [rows, queries, one head, width]
            return value.new_zeros(value.shape[0], query.shape[2], 1, value.shape[3]), None
        query, key, value, attention_mask, kwargs = pruned.adapt(query, key, value, attention_mask, kwargs)
    function = _base_function(base, module)
    output, weights = unwatched(function, module, query, key, value, attention_mask, **kwargs)
    is_handled = _is_handled(module)
    if not is_handled and is_switched(module) and not _has_config_of_a_block(module):
        raise _forgotten(module)
    call = describe(module, query, key, attention_mask, kwargs, base == "eager") if is_handled else None
    return _handled(module, call, output), weights


def _is_handled(module: nn.Module) -> bool:
    return any(module in block.names for block in _active)


def _has_config_of_a_block(module: nn.Module) -> bool:
    """Returns True for a module of another model, which shares its configuration with one that is handled."""
    config: Any = module.config
    config = config.config if isinstance(config, SiteConfig) else config
    return any(config is one for block in _active for one in block.configs)


def _forgotten(module: nn.Module) -> HiesError:
    return HiesError(
        f"This {type(module).__name__} belongs to a copy that was made while its model was being masked or scored, and "
        "a copy knows of no mask; make it before the block, or load it again."
    )


def _handled(module: nn.Module, call: Call | None, output: Tensor) -> Tensor:
    """Passes the output [rows, queries, heads, width] of a module's heads through all open blocks."""
    for block in _active:
        output = block.handled(module, call, output)
    return output


def _watched_handled(module: nn.Module, call: Call, output: Tensor) -> Tensor:
    """Does the same for a module that computes attention by itself, whose copy is watched as it is."""
    if not _is_handled(module):
        raise _forgotten(module)
    return _handled(module, call, output)


for _base in BASES:
    AttentionInterface.register(NAME_PREFIX + _base, partial(_attention, _base))
    AttentionMaskInterface.register(NAME_PREFIX + _base, partial(branching_mask, ALL_MASK_ATTENTION_FUNCTIONS[_base]))


def _base_function(base: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Returns the model's own eager function, or the registered one (a modelling file may override the registry)."""
    source = sys.modules[type(module).__module__]
    if base == "eager":
        config: Any = module.config
        return getattr(source, config.eager if isinstance(config, SiteConfig) else eager_name(module))
    return getattr(source, "ALL_ATTENTION_FUNCTIONS", AttentionInterface())[base]


@contextlib.contextmanager
def handling(model: nn.Module, handler: Handler) -> Iterator[None]:
    """Passes every attention call of `model` through `handler` inside the block; contexts nest, the outer one first.

    Raises:
        HiesError: another thread or task has such a block open for the model, or the attention implementation of the
            model was set inside the block.
        UnsupportedModelError: the model has no module with heads.
    """
    names = {module: name for name, module in model.named_modules()}  # walked once: a block is opened for every mask
    reachable = [m for m in names if isinstance(m, PreTrainedModel) and m._can_set_attn_implementation()]
    own = [module for module in names if computes_attention(module)]
    if not reachable and not own:
        raise UnsupportedModelError(
            without_count(model)
            or f"{type(model).__name__} neither calls transformers' attention interface nor has a module that computes "
            "attention by itself, so it has no heads that could be reached."
        )
    owners = [(config, m) for m in reachable for config in configs_of(m)]
    configs = list({id(config): config for config, _ in owners}.values())
    block = _Block(names, configs, handler)
    with _opened(block), restored(configs), _watching(own):
        switch(owners)
        try:
            yield
        except HiesError:
            _check_not_replaced(own, block, model)
            raise
        _check_not_replaced(own, block, model)
        check_still_switched(configs)


class ModulesReplacedError(HiesError):
    """A model put new modules in the place of its own while it ran."""


def _check_not_replaced(own: Collection[nn.Module], block: _Block, model: nn.Module) -> None:
    if own and any(module not in block.names for module in model.modules()):
        raise ModulesReplacedError(
            f"{type(model).__name__} replaced modules of its own in this pass (BigBird does where texts are too short "
            "for sparse attention), so their heads were not handled; do it once more."
        )


@contextlib.contextmanager
def _watching(modules: Collection[nn.Module]) -> Iterator[None]:
    """Watches modules that compute attention by themselves, inside the block; an outer block may do so already."""
    others = [module for module in modules if module not in _watched]
    for module in others:
        if getattr(vars(module).get("forward"), "func", None) is watched:  # of the one that it is a copy of
            raise _forgotten(module)
    _watched.update(others)
    try:
        # torch's own layers else run as one function whose inside nobody sees.
        uses_torch = any(isinstance(module, nn.MultiheadAttention) for module in modules)
        slow = fast_path_off() if uses_torch else contextlib.nullcontext()
        with slow, intercepted(others, partial(watched, _watched_handled)):
            yield
    finally:
        _watched.difference_update(others)


_fast_path: list[bool] = []  # whether it was on before each open block that needs it off; all threads share the switch


@contextlib.contextmanager
def fast_path_off() -> Iterator[None]:
    """Switches torch's fast path off until the last such block ends, whichever ends first."""
    with _lock:
        _fast_path.append(_fast_path[0] if _fast_path else torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _lock:
            before = _fast_path.pop()
            if not _fast_path:
                torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _opened(block: _Block) -> Iterator[None]:
    """Keeps a block among the active ones; one that meets a block of another thread or task is refused."""
    global _active
    with _lock:
        if any(block.meets(other) for other in _active if other not in _own.get()):
            raise HiesError(_OF_ANOTHER + "wait until its block ends, or give each a copy that is made before.")
        _active = (*_active, block)
    _own.set((*_own.get(), block))
    try:
        yield
    finally:
        with _lock:
            _active = tuple(other for other in _active if other is not block)
        _own.set(tuple(other for other in _own.get() if other is not block))


def _check_own(block: _Block, module: nn.Module) -> None:
    """Refuses a forward pass in a thread or task that has not opened the block: nobody says if the mask is meant."""
    # Backward passes compute checkpointed layers again, maybe in a thread of autograd, which belongs to nobody.
    if block not in _own.get() and torch._C._current_graph_task_id() == -1:
        raise HiesError(
            f"{_OF_ANOTHER}give each a copy.deepcopy(model) that is made before the block, or start the thread with "
            "contextvars.copy_context().run inside the block if it is to see the mask."
        )


_OF_ANOTHER = "The model is being masked or scored by another thread or task; "


def check_not_handled(model: nn.Module, doing: str) -> None:
    """Raises HiesError where `doing` (`hies.prune`, say) would copy a model inside `handling` or `masked`.

    The copy would stay switched, and forget the mask.
    """
    if any(module in block.names for block in _active for module in model.modules()):
        raise HiesError(
            f"{doing} inside a `with hies.masked(...)` block would forget the mask; leave the block first, and cut the "
            "masked heads as well if they are to be removed."
        )


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switches to evaluation mode inside the block (no dropout); then all training flags are as before."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def uncached(model: nn.Module, batch: Mapping[str, Any]) -> Iterator[None]:
    """Lets a model that reads `position_ids` keep no keys and values inside the block, unless the batch asks for it.

    Examples packed into one row, where these start again, are kept apart by transformers only without a cache.
    """
    modules = model.modules() if "position_ids" in batch else ()
    found = [module.config for module in modules if isinstance(module, PreTrainedModel)]
    configs = [config for config in found if getattr(config, "use_cache", False)]
    with restored(configs, "use_cache"):
        for config in configs:
            config.use_cache = False
        yield


@torch.no_grad()
def find_sites(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Site]:
    """Returns the attention modules of a model in order of first use, found by one forward pass over `batch`.

    Raises:
        HiesError: the batch is no dict, or the model cannot read it.
        UnsupportedModelError: no attention module was reached, or the weights are not in memory.
    """
    if not isinstance(batch, Mapping):
        raise ParameterError("batch", type(batch).__name__, "give one dict of what the model's forward takes")
    sites: dict[str, Site] = {}
    last: dict[str, ref[Call]] = {}

    def note(name: str, call: Call, output: Tensor) -> Tensor:
        rows, queries, heads, width = output.shape
        before, pruned = sites.get(name), PrunedHeads.of(call.module)
        is_uneven = pruned is not None and pruned.groups is not None
        first = Site(name, heads, key_heads_of(call), width, rows, queries, call.keys, is_uneven=is_uneven)
        if name not in last or last[name]() is not call:  # weights in parts have several products
            sites[name] = replace(before, calls=before.calls + 1) if before else first
        last[name] = ref(call)
        return output

    if not any(isinstance(value, Tensor) and value.is_meta for value in batch.values()):  # shapes alone will do
        check_weights_are_here(model, "hies.find_sites", hooked_will_do=True)
    with noting_runs(model) as ran:
        try:
            with handling(model, note), evaluating(model):  # refused before any flag is touched
                _read(model, batch)
        except ModulesReplacedError:
            sites.clear()
            with handling(model, note), evaluating(model):
                _read(model, batch)
    if not sites:
        raise UnsupportedModelError(without_count(model) or no_heads(model))
    if skipped := without_count(model):
        warnings.warn(skipped, stacklevel=3)  # a decorator stands between
    warn_of_unseen(model, sites, ran, stacklevel=3)
    return sites


def _read(model: nn.Module, batch: Mapping[str, Any]) -> None:
    try:
        model(**lent(batch))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, HiesError | torch.OutOfMemoryError):
            raise
        raise HiesError(unreadable(model, "the batch", batch, error, "give what its forward takes")) from error


def no_heads(model: nn.Module) -> str:
    """Returns the sentence that says of a model that has run that no head was found in it."""
    reasons = {f"{type(module).__name__}: {why}" for module in model.modules() if (why := why_not_seen(module))}
    detail = f" ({'; '.join(sorted(reasons))})" if reasons else ""
    return f"{type(model).__name__} called no attention function whose heads can be told apart{detail}."
