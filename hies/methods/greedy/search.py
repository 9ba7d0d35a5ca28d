"""Greedy removal: one head at a time, always the one without which the calibration loss is lowest.

Every step tries each head that is still there, so n heads take n (n + 1) / 2 - 1 passes over the calibration set. A
pass skips the layers below that of the head it tries, since nothing has changed in them: about half of the work.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from hies.errors import HiesError
from hies.heads.attention import evaluating, find_sites, handling
from hies.heads.calls import Call
from hies.heads.forwards import intercepted
from hies.heads.sites import SiteHead, SiteTensors
from hies.methods.greedy.greedy import greedy_passes
from hies.progress import ProgressBar
from hies.scoring.losses import Loss, inputs_of
from hies.scoring.own_loss import answer


def removal_order(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], loss: Loss, progress: bool = False
) -> dict[str, SiteTensors]:
    """Returns the place of every head in the order of greedy removal.

    The first to go is the head whose removal (its output at zero) gives the lowest mean loss over the calibration set,
    the next is that whose removal besides gives the lowest, and so on; of equal losses the first head by position. What
    the layers give is kept for every batch, one copy, where the batch is. The model is left as it was.

    Args:
        model: any model whose heads `hies.find_sites` finds.
        batches: dicts that the model accepts, with what the loss reads.
        loss: (outputs, batch) -> [batch].
        progress: show a progress bar over the heads to try.

    Returns:
        {"greedy": {site: [heads]}}, 0 for the first to go, float64.

    Raises:
        HiesError: a loss that is not finite or not one for each example, or a batch with past_key_values.
    """
    passes = _Passes(model, list(batches), loss)
    candidates = [(site, head) for site, heads in passes.heads.items() for head in range(heads)]
    order: list[SiteHead] = []
    total = greedy_passes(len(candidates))
    bar = ProgressBar(total=total, desc="greedy removal", unit="head", shown=progress)
    with bar, passes.opened():
        while len(candidates) > 1:
            passes.settle()
            losses = []
            for site, head in candidates:
                losses.append(passes.without(site, head))
                bar.update()
            order.append(candidates.pop(losses.index(min(losses))))
            passes.remove(*order[-1])
    places = {site: torch.empty(heads, dtype=torch.float64) for site, heads in passes.heads.items()}
    for place, (site, head) in enumerate([*order, *candidates]):
        places[site][head] = place
    return {"greedy": places}


class _Passes:
    """Passes over the calibration set with heads masked, which skip layers that nothing has changed.

    A layer is skipped by giving again what it gave in the last pass that kept its output.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Mapping[str, Any]], loss: Loss) -> None:
        self.model, self.batches, self.loss = model, batches, loss
        if any(isinstance(value, Cache) for batch in batches for value in batch.values()):
            raise HiesError("A batch has past_key_values, which would grow in each of the many passes; leave them out.")
        self.heads: dict[str, int] = {}  # site -> its number of heads
        for batch in batches:
            for name, site in find_sites(model, inputs_of(model, batch, loss)).items():
                self.heads.setdefault(name, site.heads)
        self.layer_of = {site: _layer_of(model, site) for site in self.heads}
        # Those that may be skipped, in their order; none where they run twice, or hand on more than they return.
        self.layers: list[nn.Module] = []
        self._removed = {site: torch.zeros(heads, dtype=torch.bool) for site, heads in self.heads.items()}
        self._kept: list[dict[nn.Module, Any]] = [{} for _ in batches]
        self._calls: list[nn.Module] = []  # the layers that ran in the pass of a batch
        self._valid: list[nn.Module] | None = None  # the layers that still give what was kept; None: all of them

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Masks the removed heads inside the block, where layers can be skipped."""
        layers = list(dict.fromkeys(layer for layer in self.layer_of.values() if layer is not None))
        silenced, skipping = handling(self.model, self._silence), intercepted(layers, self._call)
        with silenced, evaluating(self.model), skipping, torch.no_grad():
            self.layers = self._in_order(layers)
            if not self.layers:
                self._kept = [{} for _ in self.batches]
            yield

    def settle(self) -> None:
        """Keeps what the layers give with the heads masked that have been removed."""
        if self._valid is not None and self.layers:
            self._total(self._valid, keep=True)
        self._valid = None

    def without(self, site: str, head: int) -> float:
        """Returns the sum of the losses of all examples with this head masked besides those removed."""
        self._removed[site][head] = True
        total = self._total(self._below(site))
        self._removed[site][head] = False
        if not math.isfinite(total):
            raise HiesError(f"The calibration loss without head {head} of site {site!r} is {total}; it must be finite.")
        return total

    def remove(self, site: str, head: int) -> None:
        """Masks a head for good."""
        self._removed[site][head] = True
        self._valid = self._below(site)

    def _below(self, site: str) -> list[nn.Module]:
        """Returns the layers that run before that of a site and may be skipped."""
        layer = self.layer_of[site]
        return self.layers[: self.layers.index(layer)] if self.layers and layer is not None else []

    def _total(self, skipped: Sequence[nn.Module], keep: bool = False) -> float:
        return float(sum(self._losses(number, skipped, keep).sum() for number in range(len(self.batches))))

    def _losses(self, number: int, skipped: Sequence[nn.Module] = (), keep: bool = False) -> Tensor:
        """Returns the losses of one batch, float64 [batch]."""
        self._calls, self._outputs, self._skipped, self._keeps = [], self._kept[number], skipped, keep
        batch = self.batches[number]
        losses = self.loss(answer(self.model, batch, self.loss), batch)
        if losses.dim() != 1:
            raise HiesError(f"The loss has the shape {tuple(losses.shape)}; it must be one number for each example.")
        return losses.double()

    def _call(self, layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs a layer or skips it; copies are kept and given, since some models write into what a layer gave them."""
        if layer in self._skipped:
            return copy.deepcopy(self._outputs[layer])
        self._calls.append(layer)
        output = forward(*args, **kwargs)
        if self._keeps:
            self._outputs[layer] = copy.deepcopy(output)
        return output

    def _silence(self, site: str, call: Call, output: Tensor) -> Tensor:
        mask = self._removed[site]  # [heads]; the output is [rows, tokens, heads, width]
        return output.masked_fill(mask.to(output.device)[:, None], 0) if mask.any() else output

    def _in_order(self, layers: list[nn.Module]) -> list[nn.Module]:
        """Returns the layers in the order in which they run, their outputs kept; none if they cannot be skipped."""
        nested = any(inner in layers for layer in layers for inner in layer.modules() if inner is not layer)
        if nested or not layers or None in self.layer_of.values():
            return []
        losses, runs = [], []
        for number in range(len(self.batches)):
            losses.append(self._losses(number, keep=True))
            runs.append(self._calls)
        order = runs[0]
        once = len(order) == len(layers) and set(order) == set(layers)
        return order if once and all(run == order for run in runs) and self._can_skip(order, losses[0]) else []

    def _can_skip(self, order: list[nn.Module], losses: Tensor) -> bool:
        """Returns True if the first batch gives the same `losses` whichever layers are skipped.

        Not so where a layer hands on more than it returns, such as keys that others read. A pass with other numbers
        comes first, lest what an earlier pass left behind make them right.
        """
        before = {site: mask.clone() for site, mask in self._removed.items()}
        for mask in self._removed.values():
            mask[0] = True
        self._losses(0)
        self._removed = before
        try:
            return all(torch.equal(self._losses(0, order[:place]), losses) for place in range(1, len(order)))
        except Exception:  # whatever a model does without an output that it needs: whole passes are right
            return False


def _layer_of(model: nn.Module, site: str) -> nn.Module | None:
    """Returns the layer of a site, the smallest that transformers calls one, else the smallest in a list."""
    parts = site.split(".")
    above = [model.get_submodule(".".join(parts[:count])) for count in range(len(parts), 0, -1)]
    layers = [module for module in above if isinstance(module, GradientCheckpointingLayer)]
    in_lists = [module for module, parent in pairwise(above) if isinstance(parent, nn.ModuleList)]
    return next(iter([*layers, *in_lists]), None)
