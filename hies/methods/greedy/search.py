"""Greedy removal: one head at a time, always the one without which the calibration loss is lowest.

Every step tries each head that is left, so n heads take n (n + 1) / 2 - 1 passes over the calibration set. A pass
leaves out the layers below that of the head it tries, since nothing has changed in them: about half of the work.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from hies.errors import HiesError
from hies.heads.attention import AttentionCall, evaluating, find_sites, handling
from hies.heads.forwards import wrapped
from hies.heads.sites import Head, SiteTensors
from hies.methods.greedy.greedy import greedy_passes
from hies.scoring.losses import Loss, inputs_of


def removal_order(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], loss: Loss, progress: bool = False
) -> dict[str, SiteTensors]:
    """Returns the place of every head in the order of greedy removal.

    The first to go is the head whose removal (its output at zero) gives the lowest mean loss over the calibration set,
    the next is that whose removal besides gives the lowest, and so on; of equal losses the first head by position. What
    the layers give is kept for every batch, one copy, where the batch is. The model is left as it was.

    Args:
        model: any model that uses transformers' attention interface.
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
    order: list[Head] = []
    total = greedy_passes(len(candidates))
    bar = tqdm(total=total, desc="greedy removal", unit="head", disable=None if progress else True)
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
    """Passes over the calibration set with heads masked, which leave out layers that nothing has changed.

    A layer is left out by giving again what it gave in the last pass that kept its output. `layers` are those that may
    be left out, in the order in which they run; none where they run twice, or hand on more than they return.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Mapping[str, Any]], loss: Loss) -> None:
        self.model, self.batches, self.loss = model, batches, loss
        self.inputs = [_inputs(model, batch, loss) for batch in batches]
        self.heads: dict[str, int] = {}
        for inputs in self.inputs:
            for name, site in find_sites(model, inputs).items():
                self.heads.setdefault(name, site.heads)
        self.layer_of = {site: _layer_of(model, site) for site in self.heads}
        self.layers: list[nn.Module] = []
        self._gone = {site: torch.zeros(heads, dtype=torch.bool) for site, heads in self.heads.items()}
        self._kept: list[dict[nn.Module, Any]] = [{} for _ in batches]
        self._calls: list[nn.Module] = []  # the layers that ran in the pass of a batch
        self._valid: list[nn.Module] | None = None  # the layers that still give what was kept; None: all of them

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The model answers with its heads masked, and its layers can be left out, inside the block."""
        layers = list(dict.fromkeys(layer for layer in self.layer_of.values() if layer is not None))
        with evaluating(self.model), handling(self.model, self._silence), wrapped(layers, self._call), torch.no_grad():
            self.layers = self._in_order(layers)
            if not self.layers:
                self._kept = [{} for _ in self.batches]
            yield

    def settle(self) -> None:
        """Keep what the layers give with the heads masked that have been removed."""
        if self._valid is not None and self.layers:
            self._total(self._valid, keep=True)
        self._valid = None

    def without(self, site: str, head: int) -> float:
        """The sum of the losses of all examples with this head masked besides those removed."""
        self._gone[site][head] = True
        total = self._total(self._below(site))
        self._gone[site][head] = False
        if not math.isfinite(total):
            raise HiesError(f"The calibration loss without head {head} of site {site!r} is {total}; it must be finite.")
        return total

    def remove(self, site: str, head: int) -> None:
        """Mask a head for good."""
        self._gone[site][head] = True
        self._valid = self._below(site)

    def _below(self, site: str) -> list[nn.Module]:
        """The layers that run before that of a site and may be left out."""
        layer = self.layer_of[site]
        return self.layers[: self.layers.index(layer)] if self.layers and layer is not None else []

    def _total(self, left_out: Sequence[nn.Module], keep: bool = False) -> float:
        return float(sum(self._losses(number, left_out, keep).sum() for number in range(len(self.batches))))

    def _losses(self, number: int, left_out: Sequence[nn.Module] = (), keep: bool = False) -> Tensor:
        """The losses of one batch, float64 [batch]."""
        self._calls, self._outputs, self._left_out, self._keeps = [], self._kept[number], left_out, keep
        losses = self.loss(self.model(**self.inputs[number]), self.batches[number])
        if losses.dim() != 1:
            raise HiesError(f"The loss has the shape {tuple(losses.shape)}; it must be one number for each example.")
        return losses.double()

    def _call(self, layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a layer does; copies are kept and given, since some models write into what a layer gave them."""
        if layer in self._left_out:
            return copy.deepcopy(self._outputs[layer])
        self._calls.append(layer)
        output = forward(*args, **kwargs)
        if self._keeps:
            self._outputs[layer] = copy.deepcopy(output)
        return output

    def _silence(self, site: str, call: AttentionCall, output: Tensor) -> Tensor:
        gone = self._gone[site]
        return output.masked_fill(gone.to(output.device)[:, None], 0) if gone.any() else output

    def _in_order(self, layers: list[nn.Module]) -> list[nn.Module]:
        """The layers in the order in which they run, their outputs kept; none if they cannot be left out."""
        nested = any(inner in layers for layer in layers for inner in layer.modules() if inner is not layer)
        if nested or not layers or None in self.layer_of.values():
            return []
        losses, runs = [], []
        for number in range(len(self.batches)):
            losses.append(self._losses(number, keep=True))
            runs.append(self._calls)
        order = runs[0]
        once = len(order) == len(layers) and set(order) == set(layers)
        return order if once and all(run == order for run in runs) and self._can_leave_out(order, losses[0]) else []

    def _can_leave_out(self, order: list[nn.Module], losses: Tensor) -> bool:
        """Whether the first batch gives the same `losses` whichever layers are left out.

        Not so where a layer hands on more than it returns, such as keys that others read. A pass with other numbers
        comes first, lest what an earlier pass left behind make them right.
        """
        before = {site: gone.clone() for site, gone in self._gone.items()}
        for gone in self._gone.values():
            gone[0] = True
        self._losses(0)
        self._gone = before
        try:
            return all(torch.equal(self._losses(0, order[:place]), losses) for place in range(1, len(order)))
        except Exception:  # whatever a model does that misses something: whole passes are right
            return False


def _inputs(model: nn.Module, batch: Mapping[str, Any], loss: Loss) -> dict[str, Any]:
    """See `hies.scoring.losses.inputs_of`; a batch that one pass would change for the next is refused."""
    if any(isinstance(value, Cache) for value in batch.values()):
        raise HiesError("A batch has past_key_values, which would grow in each of the many passes; leave them out.")
    return inputs_of(model, batch, loss)


def _layer_of(model: nn.Module, site: str) -> nn.Module | None:
    """The layer that a site belongs to, the smallest that transformers calls one, else the smallest in a list."""
    parts = site.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    above = {name: model.get_submodule(name) for name in names}
    layers = [module for module in above.values() if isinstance(module, GradientCheckpointingLayer)]
    listed = [module for name, module in above.items() if isinstance(above.get(name.rpartition(".")[0]), nn.ModuleList)]
    return next(iter([*layers, *listed]), None)
