"""One pass over the calibration set gives everything that the criteria need.

What is kept is per example: the signed gradient of each gate and the attention entropy of each head, [examples, heads]
of every site. That is a few megabytes for the largest models, and every score is a reduction of it.
"""

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hies import equations
from hies.attention import AttentionCall, evaluating, handling
from hies.entropy import attention_entropy
from hies.errors import HiesError, UnsupportedModelError
from hies.losses import IGNORED, Loss, default_loss
from hies.projections import weight_norms
from hies.sites import SiteTensors

STATISTICS = ("his", "ae", "l2")


@dataclass(frozen=True)
class Statistics:
    """What one calibration pass found; every tensor is float64 on the CPU.

    gradient: dL(x)/dm_h, signed, {site: [examples, heads]}. entropy: AE_h(x) in [0, 1], NaN where an example tells
    nothing, {site: [examples, heads]}. weight_norm: {site: [heads]}. heads: {site: number of heads}, always there.
    seconds: what the pass took.
    """

    heads: dict[str, int]
    examples: int
    gradient: SiteTensors = field(default_factory=dict)
    entropy: SiteTensors = field(default_factory=dict)
    weight_norm: SiteTensors = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def his(self) -> SiteTensors:
        """HIS of equation 1, {site: [heads]}."""
        return {site: equations.head_importance(g) for site, g in self._collected("his", self.gradient).items()}

    @property
    def ae(self) -> SiteTensors:
        """AE of appendix B.2.1, in [0, 1], {site: [heads]}."""
        return {site: equations.attention_entropy(e) for site, e in self._collected("ae", self.entropy).items()}

    @property
    def l2(self) -> SiteTensors:
        """Norm of each head's query, key and value rows and output columns, {site: [heads]}."""
        return self._collected("l2", self.weight_norm)

    def _collected(self, name: str, tensors: SiteTensors) -> SiteTensors:
        if not tensors:
            raise HiesError(f"The statistic {name!r} was not collected; call hies.collect(..., need=({name!r},)).")
        return tensors


def collect(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    need: Collection[str] = ("his", "ae"),
    loss: Loss | None = None,
    progress: bool = False,
) -> Statistics:
    """Pass once over the calibration set, one forward and (for his) one backward pass a batch.

    Every example has gates of its own, so the results do not depend on how the examples are batched. The model is left
    as it was: parameters, gradients, training flags and attention implementation.

    Args:
        model: any model that uses transformers' attention interface.
        batches: dicts that the model accepts, with `labels` where his is needed.
        need: which of "his", "ae" and "l2" to find.
        loss: (outputs, batch) -> [batch]; by default what fits the model, see `hies.losses.default_loss`.
        progress: show a progress bar.

    Raises:
        HiesError: no example, a batch without labels, an unknown statistic, or a gradient that is not finite.
        UnsupportedModelError: the model's heads cannot be reached.
    """
    if unknown := set(need) - set(STATISTICS):
        raise HiesError(f"need names {sorted(unknown)[0]!r}; the statistics are {', '.join(STATISTICS)}.")
    gauge = _Gauge("his" in need, "ae" in need, getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    loss_of = loss or default_loss(model)
    started = time.perf_counter()
    with evaluating(model), _frozen(model), handling(model, gauge):
        for batch in tqdm(batches, desc="scoring", unit="batch", disable=None if progress else True):
            _measure(model, batch, gauge, loss_of, keep_labels=loss is not None)
    if not gauge.heads:
        raise UnsupportedModelError(f"{type(model).__name__} called no attention function, or there was no example.")
    norms = weight_norms(model, gauge.heads) if "l2" in need else {}
    seconds = time.perf_counter() - started
    return Statistics(gauge.heads, gauge.examples, _stack(gauge.gradients), _stack(gauge.entropies), norms, seconds)


def _measure(model: nn.Module, batch: Mapping[str, Any], gauge: "_Gauge", loss: Loss, keep_labels: bool) -> None:
    """Run one batch and let `gauge` take its statistics."""
    # Without labels a model does not compute a loss of its own, which nobody reads; a decoder's inputs come from them.
    keep_labels = keep_labels or gauge.reads_encoder
    inputs = {name: value for name, value in batch.items() if keep_labels or name != "labels"}
    gauge.start(batch)
    with torch.set_grad_enabled(gauge.wants_gradient):
        outputs = model(**inputs)
        gauge.finish(loss(outputs, batch) if gauge.wants_gradient else None)


class _Gauge:
    """The handler of a calibration pass: gates of one per example and head, and the entropy of every query."""

    def __init__(self, gradient: bool, entropy: bool, reads_encoder: bool) -> None:
        self.wants_gradient, self.wants_entropy = gradient, entropy
        self.reads_encoder = reads_encoder  # the model has a decoder that reads from an encoder
        self.heads: dict[str, int] = {}
        self.examples = 0
        self.gradients: dict[str, list[Tensor]] = {}
        self.entropies: dict[str, list[Tensor]] = {}

    def start(self, batch: Mapping[str, Any]) -> None:
        self._batch = batch
        self._size = _batch_size(batch)
        self._gates: dict[str, Tensor] = {}
        self._relative: dict[str, list[Tensor]] = {}

    def __call__(self, site: str, call: AttentionCall, output: Tensor) -> Tensor:
        self.heads.setdefault(site, output.shape[2])
        if self.wants_entropy:
            self._relative.setdefault(site, []).append(self._entropy(site, call))
        if not self.wants_gradient:
            return output
        if site not in self._gates:
            # Gates are at least float32: a half-precision sum over tokens and width would lose the gradient's digits.
            dtype = torch.promote_types(output.dtype, torch.float32)
            self._gates[site] = torch.ones(
                self._size, output.shape[2], dtype=dtype, device=output.device, requires_grad=True
            )
        gate = self._gates[site].repeat_interleave(_rows_per_example(output, self._size, site), dim=0)
        return (output * gate[:, None, :, None]).to(output.dtype)

    @torch.no_grad()
    def _entropy(self, site: str, call: AttentionCall) -> Tensor:
        """H_t / log n_t of one call, NaN where the query does not count, [batch, heads, tokens of the example]."""
        entropy = attention_entropy(
            call.query, call.key, call.mask, call.scale, call.causal,
            bias=call.bias, softcap=call.softcap, sinks=call.sinks,
        )  # fmt: skip
        relative = equations.relative_entropy(entropy, visible_keys(call))
        decodes = self.reads_encoder and "decoder" in site
        real = decoder_tokens(call, self._batch) if decodes else real_queries(call)
        if real is not None:
            relative = relative.masked_fill(~real, torch.nan)
        per_example = _rows_per_example(relative, self._size, site)
        return relative.unflatten(0, (-1, per_example)).transpose(1, 2).flatten(2)

    def finish(self, losses: Tensor | None) -> None:
        for site, relative in self._relative.items():
            mean = equations.attention_entropy_of_examples(torch.cat(relative, dim=-1).double())
            self.entropies.setdefault(site, []).append(mean.cpu())
        if losses is not None:
            if losses.shape != (self._size,):
                raise HiesError(
                    f"The loss has the shape {tuple(losses.shape)} for {self._size} examples, not one each."
                )
            # Each example's loss depends on its own gates alone, so one backward pass of the sum serves them all.
            gradients = torch.autograd.grad(losses.sum(), list(self._gates.values()), materialize_grads=True)
            for site, gradient in zip(self._gates, gradients, strict=True):
                self.gradients.setdefault(site, []).append(self._finite(site, gradient).double().cpu())
        self.examples += self._size

    def _finite(self, site: str, gradient: Tensor) -> Tensor:
        if not gradient.isfinite().all():
            row = int((~gradient.isfinite()).any(dim=1).nonzero()[0])
            raise HiesError(f"Example {self.examples + row} has a gradient that is not finite at site {site!r}.")
        return gradient


def visible_keys(call: AttentionCall) -> Tensor:
    """n_t, the number of keys that each query sees, broadcastable to [rows, heads, queries]."""
    queries, keys, device = call.query.shape[2], call.key.shape[2], call.query.device
    if call.mask is not None:
        count = call.mask.expand(*call.mask.shape[:-1], keys).sum(dim=-1)
    elif call.causal:
        count = torch.arange(1, queries + 1, device=device)
    else:
        count = torch.full((queries,), keys, device=device)
    return count + (0 if call.sinks is None else 1)


def real_queries(call: AttentionCall) -> Tensor | None:
    """Which queries are tokens and not padding, broadcastable to [rows, heads, queries]; None if all of them are.

    In self-attention a padded token is one that no query sees.
    """
    if call.mask is None or call.mask.shape[-1] != call.query.shape[2]:
        return None
    return call.mask.any(dim=-2)


def decoder_tokens(call: AttentionCall, batch: Mapping[str, Any]) -> Tensor | None:
    """The same for a decoder that reads from an encoder, whose causal mask shows no padding.

    Its own padding mask tells, else the labels that it is fed, else (a classifier, fed the encoder's tokens) the
    encoder's padding mask.
    """
    size = (call.query.shape[0], call.query.shape[2])
    masks = [batch.get("decoder_attention_mask"), batch.get("labels")]
    if "decoder_input_ids" not in batch:
        masks.append(batch.get("attention_mask"))
    for mask, padding in zip(masks, (0, IGNORED, 0), strict=False):
        if mask is not None and mask.shape == size:
            return (mask != padding)[:, None]
    return None


def _batch_size(batch: Mapping[str, Any]) -> int:
    first = batch["labels"] if "labels" in batch else next(iter(batch.values()))
    return len(first)


def _rows_per_example(tensor: Tensor, examples: int, site: str) -> int:
    if len(tensor) % examples:
        raise HiesError(f"Site {site!r} saw {len(tensor)} rows for {examples} examples, which cannot be told apart.")
    return len(tensor) // examples


def _stack(parts: dict[str, list[Tensor]]) -> SiteTensors:
    return {site: torch.cat(rows) for site, rows in parts.items()}


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside the block, so the backward pass computes those of the gates alone."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
