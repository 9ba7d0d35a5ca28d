"""Channels of the residual stream cut out of the attention: projections that read, or write, only some of them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hies.errors import UnsupportedModelError
from hies.heads.conventions import LATENT
from hies.heads.forwards import names_used_by
from hies.heads.projections import Projections, find_projections, matrix
from hies.heads.pruned import PrunedHeads
from hies.methods.llm_pruner.taylor import projections_of

REGISTRY = "ALL_ATTENTION_FUNCTIONS"  # what the forward of every module that `hies.heads.attention` reaches looks up
CROSS = ("cross", "encoder_attn", "encoder_attention", "encdecattention")  # in names of what attends to something else


def attention_modules(model: nn.Module) -> list[str]:
    """The names of the attention modules, by their code alone: no data, no forward pass."""
    modules = ((name, module) for name, module in model.named_modules() if not isinstance(module, PreTrainedModel))
    return [name for name, module in modules if REGISTRY in names_used_by(module)]


def one_stream(model: PreTrainedModel) -> dict[str, Projections]:
    """The projections of all sites of a model whose attention reads and writes one residual stream.

    Raises:
        UnsupportedModelError: there are several streams (of an encoder and a decoder, of two towers, of stages), or a
            site that does not read the stream by projections that are known, or that has been pruned.
    """
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"A {kind} has two residual streams, of its encoder and its decoder.")
    sites = {site: _reading(model, site) for site in attention_modules(model)}
    if not sites:
        raise UnsupportedModelError(f"A {kind} has no module that calls transformers' attention interface.")
    if len(stacks := {_stack(site) for site in sites}) > 1:
        raise UnsupportedModelError(
            f"The attention of a {kind} lies in several stacks of layers ({', '.join(sorted(stacks))}), which do not "
            "share one residual stream."
        )
    if len(widths := {width for found in sites.values() for width in _widths(found)}) > 1:
        listed = ", ".join(map(str, sorted(widths)))
        raise UnsupportedModelError(
            f"The attention of a {kind} reads and writes {listed} channels, which are not one residual stream."
        )
    return sites


def _reading(model: nn.Module, site: str) -> Projections:
    """The projections of a site that read the residual stream."""
    module = model.get_submodule(site)
    if PrunedHeads.of(module):
        raise UnsupportedModelError(f"Heads have been cut out of site {site!r}; channels are cut out of whole models.")
    if any(word in f"{site} {type(module).__name__}".lower() for word in CROSS):
        raise UnsupportedModelError(f"Site {site!r} reads keys and values from another place than the residual stream.")
    found = find_projections(model, site)
    if found.key.name == LATENT:
        raise UnsupportedModelError(
            f"Site {site!r} reads the residual stream through a latent, not by the matrices of its heads."
        )
    return found


def _stack(site: str) -> str:
    """The name of the list of layers that a site lies in: what comes before the first number."""
    parts = site.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[:first])


def _widths(found: Projections) -> set[int]:
    """How many channels the projections of a site read and write."""
    return {matrix(part.module).shape[0 if part is found.output else 1] for _, part in projections_of(found)}


@contextlib.contextmanager
def without_channels(sites: Mapping[str, Projections], gone: Tensor) -> Iterator[None]:
    """Inside the block the attention neither reads nor writes the channels `gone`; then all is as it was.

    The columns of the query, key, value and gate matrices go, the rows of the output matrix and the entries of its
    bias: inside the block the modules hold what is left and nothing else. Without a channel to go nothing is replaced.

    Args:
        sites: what `one_stream` found in a model.
        gone: indices of channels, int64 [removed].
    """
    parts = [(part, part is found.output) for found in sites.values() for _, part in projections_of(found)]
    dense = {(part.owner, part.name): part.module for part, _ in parts} if len(gone) else {}
    writes = {part.module for part, is_output in parts if is_output}
    cut = {module: (Writing if module in writes else Reading)(module, gone) for module in dense.values()}
    try:
        for (owner, name), module in dense.items():
            setattr(owner, name, cut[module])
        yield
    finally:
        for (owner, name), module in dense.items():
            setattr(owner, name, module)


class Reading(nn.Module):
    """In place of an input projection: [..., channels] -> [..., outputs], from the channels that are left.

    weight: [outputs, channels left].
    """

    def __init__(self, dense: Any, gone: Tensor) -> None:
        super().__init__()
        self.channels: Tensor
        weight = matrix(dense)
        self.register_buffer("channels", _left(weight.shape[1], gone).to(weight.device), persistent=False)
        self.weight = _parameter(weight.detach().index_select(1, self.channels), dense.weight)
        self.bias: Any = dense.bias
        self.train(dense.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., channels] -> [..., outputs]."""
        return F.linear(hidden.index_select(-1, self.channels), self.weight, self.bias)


class Writing(nn.Module):
    """In place of an output projection: [..., inputs] -> [..., channels], zero where a channel is gone.

    weight: [channels left, inputs]. bias: [channels left].
    """

    def __init__(self, dense: Any, gone: Tensor) -> None:
        super().__init__()
        self.channels: Tensor
        weight, bias = matrix(dense), dense.bias
        self.width = len(weight)
        self.register_buffer("channels", _left(len(weight), gone).to(weight.device), persistent=False)
        self.weight = _parameter(weight.detach().index_select(0, self.channels), dense.weight)
        self.bias: Any = None if bias is None else _parameter(bias.detach()[self.channels], bias)
        self.train(dense.training)

    def forward(self, heads: Tensor) -> Tensor:
        """[..., inputs] -> [..., channels]."""
        written = F.linear(heads, self.weight, self.bias)
        return written.new_zeros(*written.shape[:-1], self.width).index_copy(-1, self.channels, written)


def _left(width: int, gone: Tensor) -> Tensor:
    """The channels that stay, ascending."""
    stays = torch.ones(width, dtype=torch.bool)
    stays[gone.cpu()] = False
    return stays.nonzero()[:, 0]


def _parameter(values: Tensor, like: Any) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=like.requires_grad)
