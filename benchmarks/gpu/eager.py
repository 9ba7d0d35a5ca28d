"""The classical way, for any model: eager attention that returns all weights, and one gate a head for the batch."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hies.batching import Batch
from hies.heads.projections import find_projections
from hies.heads.sites import Site


@contextlib.contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Switches to transformers' own eager attention inside the block."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def classical(
    model: PreTrainedModel, batch: Batch, sites: Mapping[str, Site]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the gradient of the batch's loss for each gate, and AE, {site: [heads]}; exact for one example.

    Weights that are trainable get their gradients, as they did in transformers 4.
    """
    gates = {name: torch.ones(site.heads, device=model.device, requires_grad=True) for name, site in sites.items()}
    hooks = []
    for name, site in sites.items():
        gate = gates[name].repeat_interleave(site.width)  # [heads] -> [heads * width]
        projection = find_projections(model, name).output.module
        hooks.append(
            projection.register_forward_pre_hook(
                lambda _, inputs, gate=gate: ((inputs[0] * gate).to(inputs[0].dtype), *inputs[1:])
            )
        )
    try:
        with eager_attention(model):
            outputs = model(**batch, output_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    entropy = {name: _relative(weights.detach()) for name, weights in zip(sites, outputs.attentions, strict=True)}
    outputs.loss.backward()
    model.zero_grad(set_to_none=True)
    return {name: gate.grad for name, gate in gates.items()}, entropy


def _relative(weights: Tensor) -> Tensor:
    """Returns the mean of H_t / log n_t over queries that see two keys or more, [1, heads, n, n] -> [heads]."""
    seen = (weights > 0).sum(dim=-1)
    relative = torch.special.entr(weights.float()).sum(dim=-1) / seen.clamp(min=2).log()
    return relative.masked_fill(seen < 2, torch.nan).nanmean(dim=(0, 2))
