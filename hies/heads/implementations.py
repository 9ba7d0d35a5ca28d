"""The attention implementations that a model's configurations name, and how ours take their place."""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.flex_attention import flex_attention_forward

from hies.errors import HiesError, UnsupportedModelError
from hies.heads.configuration import BASES, NAME_PREFIX

# Registered for what a model's own functions compute as well.
SAME_ATTENTION = (flash_attention_forward, flex_attention_forward)
# What computes a model's attention, and its experts, by the configuration.
ATTENTION, EXPERTS = "_attn_implementation_internal", "_experts_implementation_internal"
PAGED = "paged|"  # before the name of an implementation: keys and values lie in pages


class AttentionName(str):
    """The name of our attention function: `hies_sdpa` to transformers' registries, and equal to `sdpa` as well.

    Forwards that shape their inputs by the name of the implementation (sparse attention) then do what they would have.
    """

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) or self.removeprefix(NAME_PREFIX) == other

    def __ne__(self, other: object) -> bool:
        return not self == other


@contextlib.contextmanager
def restored(configs: Collection[Any], name: str = ATTENTION) -> Iterator[None]:
    """Gives all configurations back what they say under a name, when the block ends."""
    before = [getattr(config, name) for config in configs]
    try:
        yield
    finally:
        for config, value in zip(configs, before, strict=True):
            setattr(config, name, value)


def switch(owners: Iterable[tuple[Any, PreTrainedModel]]) -> None:
    """Lets configurations name the function of hies.heads.attention.

    Args:
        owners: each configuration and a model that it is in; where there are several, the last is the innermost.

    Raises:
        UnsupportedModelError: a configuration names an implementation of which nobody knows what it computes.
    """
    for config, model in {id(config): (config, model) for config, model in owners}.values():
        implementation = config._attn_implementation_internal
        if not str(implementation).startswith(NAME_PREFIX):
            config._attn_implementation_internal = AttentionName(NAME_PREFIX + _base_of(implementation, model))


def _base_of(implementation: str | None, model: PreTrainedModel) -> str:
    """Returns which of `BASES` computes what a model computes with this implementation."""
    name = implementation and implementation.removeprefix(PAGED)
    if name in BASES:
        return name
    if name is not None and AttentionInterface().get(name) not in SAME_ATTENTION:
        known = " or ".join(f'"{base}"' for base in BASES if base == "eager" or model._supports_sdpa)
        raise UnsupportedModelError(
            f"The attention implementation {implementation!r} of {type(model).__name__} is none of transformers' own, "
            f"so nobody knows what it computes; call model.set_attn_implementation with {known}."
        )
    return "sdpa" if model._supports_sdpa else "eager"  # sdpa knows no soft cap (Gemma 2) and no sinks (GPT-OSS)


def is_switched(module: nn.Module) -> bool:
    """Returns True if `switch` wrote what the module's configuration names, or that of the one that it is a copy of."""
    return isinstance(getattr(getattr(module, "config", None), "_attn_implementation_internal", None), AttentionName)


def check_still_switched(configs: Iterable[Any]) -> None:
    """Raises HiesError where somebody else has written an implementation into a configuration after `switch` did."""
    for config in configs:
        name = config._attn_implementation_internal
        if not str(name).startswith(NAME_PREFIX):
            raise HiesError(
                f"The attention implementation was set to {name!r} while the model was being masked or scored, so its "
                "heads were neither from then on; call model.set_attn_implementation before the block."
            )


@contextlib.contextmanager
def in_eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Switches to eager attention inside the block; then all configurations are as before."""
    with restored(configs_of(model)):
        model.set_attn_implementation("eager")
        yield


@contextlib.contextmanager
def in_plain_experts(model: nn.Module) -> Iterator[None]:
    """Lets experts compute in matrix products of their own inside the block; then all configurations are as before."""
    configs = [config for config in configs_of(model, EXPERTS) if getattr(config, EXPERTS) is not None]
    # Without weights nothing tells which experts a token takes; each then gets copies of as many as it takes.
    plain = "batched_mm" if any(parameter.is_meta for parameter in model.parameters()) else "eager"
    with restored(configs, EXPERTS):
        for config in configs:
            setattr(config, EXPERTS, plain)
        yield


def configs_of(model: nn.Module, name: str = ATTENTION) -> list[Any]:
    """Returns every configuration that a module of the model may look its attention (or what has this name) up in."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return [config for config in configs if hasattr(config, name)]
