"""What a model's layers are called with, so that they can be run again one by one on other hidden states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hies.batching import Batch
from hies.heads.attention import uncached
from hies.methods.slicegpt.bases import Choose


@dataclass
class Calls:
    """The calls of a calibration pass, one entry a batch.

    Attributes:
        choose: chooses bases.
        starts: what the first module read, [batch, tokens, width].
        real: True for tokens that are no padding, [batch, tokens].
        attention: arguments of each attention module after its hidden states, and those by name, without a cache.
    """

    choose: Choose
    starts: list[Tensor] = field(default_factory=list)
    real: list[Tensor] = field(default_factory=list)
    attention: dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=dict)

    def through(self, module: nn.Module, states: Sequence[Tensor]) -> list[Tensor]:
        """Returns what a module makes of these hidden states, one tensor [batch, tokens, ...] a batch.

        An attention module gets the recorded arguments besides; any other module gets the hidden states alone.
        """
        if module not in self.attention:
            return [module(state) for state in states]
        calls = zip(states, self.attention[module], strict=True)
        return [module(state, *further, **options)[0] for state, (further, options) in calls]

    def basis(self, signals: Sequence[Tensor]) -> Tensor:
        """Returns the basis Q [d, k] that is chosen for the real tokens of a signal, [batch, tokens, d] a batch."""
        return self.choose([signal[real] for signal, real in zip(signals, self.real, strict=True)])


@torch.no_grad()
def record(
    model: nn.Module, first: nn.Module, attention: Sequence[nn.Module], batches: Sequence[Batch], choose: Choose
) -> Calls:
    """Runs the batches through `model` and notes the input of `first` and the calls of the attention modules."""
    calls = Calls(choose, attention={module: [] for module in attention})

    def start(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.starts.append(inputs[0])

    def call(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        named = {name: value for name, value in options.items() if name not in ("hidden_states", "past_key_values")}
        calls.attention[module].append((inputs[1:], named))

    hooks = [first.register_forward_pre_hook(start)]
    hooks += [module.register_forward_pre_hook(call, with_kwargs=True) for module in attention]
    try:
        for batch in batches:
            run(model, batch)
            calls.real.append(real_tokens(batch, calls.starts[-1]))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def run(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    """Returns what a model gives for a batch without its labels, so that no loss is computed."""
    with uncached(model, batch):
        return model(**{name: value for name, value in batch.items() if name != "labels"})


def real_tokens(batch: Mapping[str, Any], hidden: Tensor) -> Tensor:
    """Returns True for tokens of `hidden` [batch, tokens, ...] that are no padding, [batch, tokens]."""
    mask = batch.get("attention_mask")
    if mask is None or mask.shape != hidden.shape[:2]:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    return mask.bool()
