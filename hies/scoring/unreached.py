"""Heads that the loss depends on while none of its gradient reaches them: a warning names their sites."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hies.heads.attention import evaluating
from hies.heads.masking import masked
from hies.precision import chance_kept
from hies.scoring.losses import Loss
from hies.scoring.own_loss import answer


@torch.no_grad()
def warn_of_unreached(
    model: nn.Module, seen_in: Mapping[str, Mapping[str, Any]], heads: Mapping[str, int], loss: Loss, stacklevel: int
) -> None:
    """Warns of sites without any gradient whose heads change the loss where they are masked, all together.

    A part that runs under `torch.no_grad()`, or whose output is detached, is such a one. A site that no answer depends
    on is none.

    Args:
        model: see `hies.collect`.
        seen_in: site without a gradient -> a batch that reached it.
        heads: site -> its number of heads.
        loss: of the pass.
        stacklevel: of the warning, as in `warnings.warn`.
    """
    stopped: list[str] = []
    for batch in {id(batch): batch for batch in seen_in.values()}.values():
        sites = [site for site, one in seen_in.items() if one is batch]
        before = _losses(model, batch, loss)
        with masked(model, {site: range(heads[site]) for site in sites}):
            after = _losses(model, batch, loss)
        stopped += [] if torch.allclose(before, after) else sites
    if stopped:
        others = f" and {len(stopped) - 1} more" if len(stopped) > 1 else ""
        warnings.warn(
            f"No gradient reaches the heads of site {stopped[0]!r}{others}, though the loss depends on them (do they "
            "run under torch.no_grad(), or is their output detached?): their HIS is 0, which ranks them lowest. Let "
            "the forward pass keep gradients, or leave these sites out, as in hies.select(..., sites=...).",
            stacklevel=stacklevel + 1,
        )


def _losses(model: nn.Module, batch: Mapping[str, Any], loss: Loss) -> Tensor:
    with evaluating(model), chance_kept():
        return loss(answer(model, batch, loss), batch)
