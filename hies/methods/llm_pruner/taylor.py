"""Taylor saliences of the attention weights: what the loss changes by if those of a head, or of a channel, go.

LLM-Pruner (Ma et al. 2023, arXiv 2305.11627, section 3.2): W are the weights, g the gradient of the mean loss over the
calibration set, F the mean squared gradient of single examples; see `salience.taylor_salience`. Weights alone
count, no biases. Every example passes the model on its own, so the results do not depend on how examples are batched.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hies.errors import HiesError
from hies.heads.attention import evaluating, find_sites
from hies.heads.matrices import HeadRows
from hies.heads.projections import Projections, find_projections
from hies.heads.sites import SiteTensors
from hies.heads.weights import check_weights_are_here
from hies.methods.llm_pruner.block import KEY_HEAD_OF, TAYLOR_KINDS
from hies.methods.llm_pruner.salience import taylor_salience
from hies.progress import ProgressBar
from hies.scoring.examples import single_examples
from hies.scoring.gradients import all_zero, gradients, not_finite, requiring_gradients
from hies.scoring.losses import Loss, check_losses, inputs_of
from hies.scoring.own_loss import answer
from hies.scoring.rows import parts_of

GATES = ("gate_proj", "g_proj")  # of `BY_HEAD`, those that read the hidden states; the others read positions

_Batches = Iterable[Mapping[str, Any]]
_Example = dict[str, Any]
# weight -> the gradient of the mean loss, and the mean over the examples of the squared gradient of each one's loss,
# both in the weight's shape, at least float32
_Moments = Mapping[Tensor, tuple[Tensor, Tensor]]


def head_saliences(model: nn.Module, batches: _Batches, loss: Loss, progress: bool = False) -> dict[str, SiteTensors]:
    """Returns the saliences of all heads by matrix and kind, each {site: [heads]}, float64 on the CPU.

    The names are `taylor/<matrix>/<kind>` with the matrices of `MATRICES` (that of a head's gate counts as part of that
    of its query) and the kinds of `TAYLOR_KINDS`; besides `taylor/groups`, the key/value head of each query head. Query
    heads that share a key and a value have equal parts of the salience of these, so the sum over the heads of a group
    is the salience of the group. The model is left as it was.

    Args:
        model: any model whose heads `hies.find_sites` finds and whose projections have known names.
        batches: dicts that the model accepts, with what `loss` reads.
        loss: (outputs, batch) -> [batch].
        progress: show a progress bar.

    Raises:
        HiesError: no example, a loss that is not one number an example, or a gradient that is not finite.
        UnsupportedModelError: the weights of a site are not found.
    """
    batches = list(batches)
    firsts = [single_examples(batch)[0] for batch in batches]  # one batch may reach sites that another does not
    names = {site: None for example in firsts for site in find_sites(model, inputs_of(model, example, loss))}
    sites = {site: find_projections(model, site) for site in names}
    moments = _moments(model, sites, _examples(model, batches, loss), loss, progress)
    found: dict[str, SiteTensors] = {}
    for site, projections in sites.items():
        found.setdefault(KEY_HEAD_OF, {})[site] = torch.tensor(projections.groups, dtype=torch.float64)
        for name, values in _of_heads(projections, moments).items():
            found.setdefault(f"taylor/{name}", {})[site] = values
    return found


def channel_saliences(
    model: nn.Module, sites: Mapping[str, Projections], batches: _Batches, loss: Loss
) -> dict[str, Tensor]:
    """Returns the saliences of all channels of the residual stream, `<matrix>/<kind>` -> [channels], float64, CPU.

    Channel c has column c of the query, key, value and gate matrices (gates count as queries, as in `head_saliences`)
    and row c of the output matrix, at all sites together.

    Args and errors are those of `head_saliences`; besides, `sites` has the projections of all sites, of one width.
    """
    moments = _moments(model, sites, _examples(model, batches, loss), loss)
    found: dict[str, Tensor] = {}
    counted: set[tuple[int, bytes]] = set()  # weights that several sites share are cut once
    for projections in sites.values():
        for name, part in projections_of(projections):
            rows = (id(part.module.weight), part.rows.cpu().numpy().tobytes())
            if rows in counted:
                continue
            counted.add(rows)
            for kind in TAYLOR_KINDS:
                values = _elements(part, part is projections.output, moments, kind).sum(dim=(0, 1)).cpu()
                found[f"{name}/{kind}"] = found.get(f"{name}/{kind}", torch.zeros_like(values)) + values
    return found


def projections_of(found: Projections) -> Iterator[tuple[str, HeadRows]]:
    """Yields the projections of one site, each with the matrix that it counts as."""
    yield from (("query", found.query), ("key", found.key), ("value", found.value), ("output", found.output))
    yield from (("query", gate) for gate in found.gates if gate.name in GATES)


def _elements(part: HeadRows, is_output: bool, moments: _Moments, kind: str) -> Tensor:
    """Returns the salience of every weight of a projection, float64 [heads, rows of a head, channels]."""
    flipped = isinstance(part.module, Conv1D) != is_output  # the heads are on the second dimension
    weight: Any = part.module.weight
    rows = part.rows.flatten().to(weight.device)
    stored = (weight.detach(), *moments[weight])
    weights, gradient, squares = ((tensor.T if flipped else tensor)[rows].double() for tensor in stored)
    saliences = taylor_salience(weights, gradient, squares, kind)  # [heads * rows of a head, channels]
    return saliences.unflatten(0, part.rows.shape)


def _of_heads(found: Projections, moments: _Moments) -> dict[str, Tensor]:
    """Returns `<matrix>/<kind>` -> [heads] of one site."""
    result: dict[str, Tensor] = {}
    sharing = torch.tensor(found.groups).bincount()[list(found.groups)]  # query heads that share one's key and value
    for name, part in projections_of(found):
        place = found.places_in(part)
        for kind in TAYLOR_KINDS:
            each = _elements(part, part is found.output, moments, kind).sum(dim=(1, 2)).cpu()[place]
            each = each / sharing if name in ("key", "value") else each
            result[f"{name}/{kind}"] = result.get(f"{name}/{kind}", torch.zeros_like(each)) + each
    return result


def _moments(
    model: nn.Module, sites: Mapping[str, Projections], examples: list[_Example], loss: Loss, progress: bool = False
) -> _Moments:
    """Returns the moments of the gradients of all projections, by weight, from one backward pass an example."""
    check_weights_are_here(model, "LLM-Pruner")
    parts = ((site, part) for site, found in sites.items() for _, part in projections_of(found))
    owners: dict[Any, str] = {part.module.weight: site for site, part in parts}
    dtypes = [torch.promote_types(weight.dtype, torch.float32) for weight in owners]
    sums, squares = ([torch.zeros_like(w, dtype=d) for w, d in zip(owners, dtypes, strict=True)] for _ in range(2))
    is_half = any(weight.dtype == torch.float16 for weight in owners)
    bar = ProgressBar(examples, "taylor", unit="example", shown=progress)
    with evaluating(model), requiring_gradients(model, list(owners)), torch.enable_grad():
        for count, example in enumerate(bar):
            losses = loss(answer(model, example, loss), example)
            check_losses(losses, 1)
            each = gradients(losses.sum(), list(owners), is_half)
            if is_half and not any(gradient.any() for gradient in each):
                raise all_zero(count)
            for site, total, square, gradient in zip(owners.values(), sums, squares, each, strict=True):
                if not gradient.isfinite().all():
                    raise not_finite(count, site, is_half)
                total += gradient
                square += gradient.square()
    size = len(examples)
    return {w: (total / size, square / size) for w, total, square in zip(owners, sums, squares, strict=True)}


def _examples(model: nn.Module, batches: _Batches, loss: Loss) -> list[_Example]:
    """Returns every example as a batch of one, views of the batch's tensors; padding stays on."""
    parts = [part for batch in batches for part in parts_of(model, batch, loss)]
    if not parts:
        raise HiesError("There is no calibration example; Taylor saliences are gradients of a loss.")
    return [example for part in parts for example in single_examples(part)]
