"""The one place that touches transformers' attention: find the heads of a model, gate them, observe them.

transformers routes attention through a registry of functions. The function registered here calls the one that the
model would have used and lets handlers see its inputs and change its output, so no architecture needs code of its own.
Everything is switched on inside context managers, which put back what was there.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from hies.errors import HiesError, UnsupportedModelError
from hies.heads.branches import branching_mask
from hies.heads.configuration import BASES, NAME_PREFIX, SiteConfig, eager_name
from hies.heads.pruned import PrunedHeads
from hies.heads.sites import Site
from hies.heads.weights import check_weights_are_here

HIDDEN = -5000.0  # what is added to the scores of hidden keys lies below: the smallest float, or -10000 (MarkupLM)


class AttentionName(str):
    """The name of our attention function: `hies_sdpa` to transformers' registries, and equal to `sdpa` as well.

    Forwards that shape their inputs by the name of the implementation (sparse attention) then do what they would have.
    """

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) or self.removeprefix(NAME_PREFIX) == other

    def __ne__(self, other: object) -> bool:
        return not self == other


@dataclass(frozen=True)
class AttentionCall:
    """What one attention module computes; rows is the batch size times, say, a model's windows.

    Attributes:
        module: the attention module.
        query: [rows, heads, queries, width].
        key: [rows, key heads, keys, width].
        mask: True where a query sees a key, broadcastable to [rows, heads, queries, keys], or None.
        scale: factor on the scores.
        causal: query t sees the keys 0..t; only without a mask.
        bias: as in `hies.attention_entropy`, as are the next two.
        softcap: of the scores.
        sinks: [heads].
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    causal: bool
    bias: Tensor | None
    softcap: float | None
    sinks: Tensor | None


Handler = Callable[[str, AttentionCall, Tensor], Tensor]  # (site, call, output [rows, queries, heads, width]) -> output


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


# Replaced, never changed, since several threads may read it while one opens a block.
_active: tuple[_Block, ...] = ()
_lock = threading.Lock()
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
    output, weights = _base_function(base, module)(module, query, key, value, attention_mask, **kwargs)
    call = None
    for block in _active:
        if module in block.names:
            _check_own(block, module)
            call = call or _describe(module, query, key, attention_mask, kwargs)
            output = block.handler(block.names[module], call, output)
        elif getattr(module, "_is_replica", False):
            raise HiesError("torch.nn.DataParallel copies the model, and the copies know of no mask; use one device.")
    return output, weights


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


def _describe(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> AttentionCall:
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    bias = options.get("position_bias")
    visible = mask
    if mask is not None and mask.dtype != torch.bool:
        visible = mask > HIDDEN
        added = mask.masked_fill(~visible, 0)
        if added.any():  # a mask that also carries a bias
            bias = added if bias is None else bias + added
    causal = bool(causal) and mask is None and query.shape[2] > 1
    scale = options.get("scaling")
    return AttentionCall(
        module=module,
        query=query.detach(),
        key=(key[:, :, : query.shape[2]] if causal else key).detach(),
        mask=visible,
        scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        causal=causal,
        bias=None if bias is None else bias.detach(),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )


@contextlib.contextmanager
def _restored(configs: Collection[Any]) -> Iterator[None]:
    """Gives all configurations their attention implementation back when the block ends."""
    before = [config._attn_implementation_internal for config in configs]
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation


def _switch(configs: Iterable[Any]) -> None:
    """Lets these configurations name `_attention`."""
    for config in configs:
        implementation = config._attn_implementation_internal
        if not str(implementation).startswith(NAME_PREFIX):
            base = implementation if implementation in BASES else "sdpa"
            config._attn_implementation_internal = AttentionName(NAME_PREFIX + base)


@contextlib.contextmanager
def in_eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Switches to eager attention inside the block; then all configurations are as before."""
    with _restored(_configs(model)):
        model.set_attn_implementation("eager")
        yield


def _configs(model: nn.Module) -> list[Any]:
    """Returns every configuration that a module of the model may look its attention implementation up in."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return [config for config in configs if hasattr(config, "_attn_implementation_internal")]


@contextlib.contextmanager
def handling(model: nn.Module, handler: Handler) -> Iterator[None]:
    """Passes every attention call of `model` through `handler` inside the block; contexts nest, the outer one first.

    Raises:
        HiesError: another thread or task has such a block open for the model.
        UnsupportedModelError: the model does not use transformers' attention interface.
    """
    submodels = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    reachable = [m for m in submodels if m._can_set_attn_implementation()]
    if not reachable:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not call transformers' attention interface, so its heads cannot be reached."
        )
    configs = {id(config): config for m in reachable for config in _configs(m)}.values()
    block = _Block({module: name for name, module in model.named_modules()}, list(configs), handler)
    with _opened(block), _restored(configs):
        _switch(configs)
        yield


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
    found = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    caching = [config for config in found if "position_ids" in batch and getattr(config, "use_cache", False)]
    configs = {id(config): config for config in caching}.values()
    try:
        for config in configs:
            config.use_cache = False
        yield
    finally:
        for config in configs:
            config.use_cache = True


@torch.no_grad()
def find_sites(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Site]:
    """Returns the attention modules of a model in order of first use, found by one forward pass over `batch`.

    Raises:
        UnsupportedModelError: no attention module was reached, or the weights are not in memory.
    """
    sites: dict[str, Site] = {}

    def note(name: str, call: AttentionCall, output: Tensor) -> Tensor:
        rows, queries, heads, width = output.shape
        pruned, before = PrunedHeads.of(call.module), sites.get(name)
        key_heads = len(pruned.key_heads) if pruned else call.key.shape[1]
        first = Site(name, heads, key_heads, width, rows, queries, call.key.shape[2])
        sites[name] = replace(before, calls=before.calls + 1) if before else first
        return output

    if not any(isinstance(value, Tensor) and value.is_meta for value in batch.values()):  # shapes alone will do
        check_weights_are_here(model, "hies.find_sites", hooked_will_do=True)
    with handling(model, note), evaluating(model):  # refused before any flag is touched
        model(**batch)
    if not sites:
        raise UnsupportedModelError(f"{type(model).__name__} called no attention function, so no head was found.")
    return sites
