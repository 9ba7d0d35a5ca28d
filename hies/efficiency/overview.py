"""What is left of a pruned model, layer by layer and beside the dense one: `hies.summary`."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from hies.efficiency.cost import count
from hies.efficiency.measure import cache_bytes
from hies.errors import HiesError, ParameterError, UnsupportedModelError, brief
from hies.heads.attention import find_sites
from hies.heads.implementations import in_plain_experts
from hies.heads.pruned import PrunedHeads
from hies.heads.sites import Site
from hies.heads.weights import check_weights_are_here
from hies.pruning.counts import dense_counts, set_counts
from hies.pruning.removal import pruned_heads
from hies.scoring.losses import default_loss, inputs_of

EXAMPLE_TOKENS = 128  # of the text that a summary is made with where no batch is given

ROW_NAMES = {"heads": "heads", "parameters": "parameters", "flops": "FLOPs", "cache_bytes": "key/value cache, bytes"}


@dataclass(frozen=True)
class SiteHeads:
    """The heads of an attention module.

    Attributes:
        heads: query heads that are left.
        dense_heads: of the dense module.
        key_heads: key/value heads that are left.
        dense_key_heads: of the dense module.
    """

    heads: int
    dense_heads: int
    key_heads: int
    dense_key_heads: int


@dataclass(frozen=True)
class Size:
    """What a model takes.

    Attributes:
        heads: query heads.
        parameters: weights and biases.
        flops: of one forward pass over the batch, a multiply-add counted as two; None where a dense model does not run
            without weights, and so for the next.
        cache_bytes: keys and values that a decoder keeps of the batch; None for other models.
    """

    heads: int
    parameters: int
    flops: int | None
    cache_bytes: int | None


@dataclass(frozen=True)
class Summary:
    """A pruned model beside the dense one; printed, a table.

    Attributes:
        model: the name of its class.
        sites: attention module -> its heads.
        dense: what the model took before.
        small: what it takes now.
        batch: the shape of what it was run with.
    """

    model: str
    sites: dict[str, SiteHeads]
    dense: Size
    small: Size
    batch: tuple[int, ...]

    def __str__(self) -> str:
        width = max(map(len, self.sites))
        lines = [f"{self.model}", f"{'attention module':{width}}  heads    of  key/value heads    of"]
        for name, site in self.sites.items():
            counts = f"{site.heads:>5}{site.dense_heads:>6}{site.key_heads:>17}{site.dense_key_heads:>6}"
            lines.append(f"{name:{width}}  {counts}")
        lines.append(f"\n{'':22}{'dense':>18}{'small':>18}{'ratio':>8}")
        for name, row in ROW_NAMES.items():
            before, after = getattr(self.dense, name), getattr(self.small, name)
            if after is not None:
                numbers = f"{before:>18,}{after:>18,}{after / before:>8.3f}" if before else f"{'?':>18}{after:>18,}"
                lines.append(f"{row:22}{numbers}")
        return "\n".join([*lines, f"for inputs of the shape {' x '.join(map(str, self.batch))}"])


def summary(small: PreTrainedModel, batch: Mapping[str, Any] | None = None) -> Summary:
    """Returns the heads of a pruned model's layers, and its parameters, FLOPs and cache beside those of the dense one.

    The dense model is built of its configuration, without weights. Nothing is timed: `hies.efficiency.measure` does it.

    Args:
        small: a model, pruned or not.
        batch: what it is run with, on which FLOPs and cache depend, and which sites are reached; None: one text of 128
            tokens, or one picture.

    Raises:
        HiesError: it is no model of transformers, no batch is known for such a model, or no heads are found.
    """
    if not hasattr(small, "set_attn_implementation"):  # a wrapper hands on what it asks of the model inside
        raise UnsupportedModelError(f"{type(small).__name__} is no model of transformers; give the one inside it.")
    check_weights_are_here(small, "hies.summary")
    inputs = _example(small) if batch is None else inputs_of(small, batch, default_loss(small))
    try:
        found = find_sites(small, inputs)
    except UnsupportedModelError:
        if not pruned_heads(small):
            raise
        found = {}  # none of its layers has a head left
    except Exception as error:
        cause = error.__cause__ or error  # what the model itself says
        if batch is not None or isinstance(cause, HiesError):
            raise
        raise ParameterError("batch", None, f"give what the model reads ({brief(cause)})") from error
    sites = dict(_heads_of(small, found))
    left, before = (sum(getattr(site, name) for site in sites.values()) for name in ("heads", "dense_heads"))
    after = _size(small, left, inputs)
    dense = after if left == before else _of_dense(small, before, inputs)
    return Summary(type(small).__name__, sites, dense, after, tuple(next(iter(inputs.values())).shape))


def _heads_of(model: nn.Module, sites: Mapping[str, Site]) -> Iterator[tuple[str, SiteHeads]]:
    for name, module in model.named_modules():
        if record := PrunedHeads.of(module):
            counts = len(record.heads), record.dense_heads, len(record.key_heads), record.dense_key_heads
            yield name, SiteHeads(*counts)
        elif site := sites.get(name):
            yield name, SiteHeads(site.heads, site.heads, site.key_heads, site.key_heads)


def _size(model: PreTrainedModel, heads: int, batch: Mapping[str, Any]) -> Size:
    cost = count(model, dict(batch))
    return Size(heads, cost.parameters, cost.flops, cache_bytes(model, dict(batch)))


def _of_dense(small: PreTrainedModel, heads: int, batch: Mapping[str, Any]) -> Size:
    """Returns what the dense model takes: its shapes alone are built, and run."""
    config = copy.deepcopy(small.config)
    set_counts(config, dense_counts(small))
    with torch.device("meta"):
        dense: Any = type(small)(config)
    dense.to(small.dtype)
    # Forwards look into masks, which change no count here: all products are of all queries and keys.
    read = {name: value for name, value in batch.items() if not name.endswith("attention_mask")}
    shapes = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in read.items()}
    for part in dense.modules():
        if hasattr(part, "warn_if_padding_and_no_attention_mask"):  # there are no tokens that could be padding
            part.warn_if_padding_and_no_attention_mask = _nothing
    try:
        with _Agreeing(), in_plain_experts(dense):
            return _size(dense, heads, shapes)
    except Exception:  # of whatever kind it is, where a forward computes with numbers that it looks at
        return Size(heads, sum(parameter.numel() for parameter in dense.parameters()), None, None)


def _nothing(*_: Any) -> None:
    pass


class _Agreeing(TorchDispatchMode):
    """Answers what a forward asks of tensors without numbers by True: all is visible, the pictures fit the text."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype is torch.bool:
            return True
        return function(*args, **(kwargs or {}))


def _example(model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns a text or a picture as a model reads it, on its device."""
    config: Any = model.config
    if model.main_input_name == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
        shape = (1, getattr(config, "num_channels", 3), config.image_size, config.image_size)
        return {"pixel_values": torch.zeros(shape, dtype=model.dtype, device=model.device)}
    if model.main_input_name != "input_ids":
        raise ParameterError("batch", None, f"give what the model reads ({model.main_input_name})")
    tokens = min(EXAMPLE_TOKENS, getattr(config.get_text_config(), "max_position_embeddings", None) or EXAMPLE_TOKENS)
    return {"input_ids": torch.full((1, tokens), 3, device=model.device)}
