"""Channels of the residual stream cut out of the attention: projections that read, or write, only some of them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hies.errors import UnsupportedModelError
from hies.heads.conventions import CROSS, LATENT
from hies.heads.forwards import INTERFACE, names_used_by
from hies.heads.matrices import matrix
from hies.heads.projections import Projections, find_projections
from hies.heads.pruned import PrunedHeads
from hies.methods.llm_pruner.taylor import projections_of


def attention_modules(model: nn.Module) -> list[str]:
    """Returns the names of the attention modules, by their code alone: no data, no forward pass."""
    modules = ((name, module) for name, module in model.named_modules() if not isinstance(module, PreTrainedModel))
    return [name for name, module in modules if INTERFACE in names_used_by(module)]


def one_stream(model: PreTrainedModel) -> dict[str, Projections]:
    """Returns the projections of all sites of a model whose attention reads and writes one residual stream.

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
    parts = [(part, part is found.output) for found in sites.values() for _, part in projections_of(found)]
    if len(widths := {matrix(part.module).shape[0 if is_output else 1] for part, is_output in parts}) > 1:
        raise UnsupportedModelError(
            f"The attention of a {kind} reads and writes {', '.join(map(str, sorted(widths)))} channels, which are not "
            "one residual stream."
        )
    return sites


def _reading(model: nn.Module, site: str) -> Projections:
    """Returns the projections of a site, which read the residual stream."""
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
    """Returns the name of the list of layers that a site lies in: what comes before the first number."""
    parts = site.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[:first])


@contextlib.contextmanager
def without_channels(sites: Mapping[str, Projections], removed: Tensor) -> Iterator[None]:
    """Cuts channels out of the attention inside the block, which neither reads nor writes them; then all is as before.

    The columns of the query, key, value and gate matrices are cut, the rows of the output matrix and the entries of its
    bias: inside the block the modules hold the other channels and nothing else.

    Args:
        sites: the projections of a model, from `one_stream`.
        removed: indices of channels, int64 [removed]; without any nothing is replaced.
    """
    parts = [(part, part is found.output) for found in sites.values() for _, part in projections_of(found)]
    dense = {(part.owner, part.name): part.module for part, _ in parts} if len(removed) else {}
    writes = {part.module for part, is_output in parts if is_output}
    cut = {module: (Writing if module in writes else Reading)(module, removed) for module in dense.values()}
    try:
        for (owner, name), module in dense.items():
            setattr(owner, name, cut[module])
        yield
    finally:
        for (owner, name), module in dense.items():
            setattr(owner, name, module)


class Reading(nn.Module):
    """Stands in place of an input projection, [..., channels] -> [..., outputs], and reads the channels that stay.

    Attributes:
        width: how many channels there were.
        channels: those that stay, ascending.
        weight: [outputs, channels that stay].
    """

    DIM = 1  # of the weight, that of the channels

    def __init__(self, dense: Any, removed: Tensor) -> None:
        super().__init__()
        self.channels: Tensor
        weight = matrix(dense)
        self.width = weight.shape[self.DIM]
        stays = torch.ones(self.width, dtype=torch.bool)
        stays[removed.cpu()] = False
        self.register_buffer("channels", stays.nonzero()[:, 0].to(weight.device), persistent=False)
        self.weight = nn.Parameter(weight.detach().index_select(self.DIM, self.channels), dense.weight.requires_grad)
        self.bias: Any = dense.bias
        self.train(dense.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns [..., outputs] for [..., channels]."""
        return F.linear(hidden.index_select(-1, self.channels), self.weight, self.bias)


class Writing(Reading):
    """Stands in place of an output projection, [..., inputs] -> [..., channels], and writes zero to removed ones.

    Attributes:
        weight: [channels that stay, inputs].
        bias: [channels that stay], or None.
    """

    DIM = 0

    def __init__(self, dense: Any, removed: Tensor) -> None:
        super().__init__(dense, removed)
        if dense.bias is not None:
            self.bias = nn.Parameter(dense.bias.detach()[self.channels], dense.bias.requires_grad)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns [..., channels] for [..., inputs]."""
        written = F.linear(hidden, self.weight, self.bias)
        return written.new_zeros(*written.shape[:-1], self.width).index_copy(-1, self.channels, written)
