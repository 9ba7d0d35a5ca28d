"""Layers that compute their activations again in the backward pass instead of keeping them."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from hies.errors import HiesError, UnsupportedModelError
from hies.heads.forwards import intercepted


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Keeps only the input of every layer inside the block; what the backward pass needs is computed again there.

    transformers' own gradient checkpointing does nothing in evaluation mode, and training mode would turn dropout on;
    here no flag is touched. A backward pass must run inside the block, too, if attention handlers are to see it. A
    model without a layer that transformers knows how to compute again is refused.
    """
    with intercepted(_layers(model), _recomputable):
        yield


def _layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Returns the layers that hold no other layer: of nested ones (Swin's stages) the inner keep less between them."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    inner = [layer for layer in layers if sum(isinstance(m, GradientCheckpointingLayer) for m in layer.modules()) == 1]
    if not inner:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no layer that transformers can compute again, so checkpoint=True "
            "(model.checkpointing=true) does not work with it; use false and smaller batches."
        )
    return inner


def _recomputable(layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    args = tuple(map(_uncached, args))
    kwargs = {name: _uncached(value) for name, value in kwargs.items()}
    return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False)


def _uncached(value: Any) -> Any:
    """Returns None for a cache of keys and values, to which a layer that runs twice would append twice."""
    if not isinstance(value, Cache):
        return value
    if value.get_seq_length():
        raise HiesError(
            "checkpoint=True computes layers again, which a batch with filled past_key_values does not allow; leave "
            "them out, or use checkpoint=False."
        )
    return None
