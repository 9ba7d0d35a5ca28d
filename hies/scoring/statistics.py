"""One pass over the calibration set gives everything that the criteria need.

What is kept is per example: the signed gradient of each gate and the attention entropy of each head, [examples, heads]
of every site. That is a few megabytes for the largest models, and every score is a reduction of it.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hies import equations
from hies.errors import HiesError, UnsupportedModelError
from hies.heads.attention import AttentionCall, evaluating, handling
from hies.heads.projections import weight_norms
from hies.heads.sites import SiteTensors
from hies.methods.greedy.search import removal_order
from hies.methods.llm_pruner.taylor import head_saliences
from hies.scoring.checkpointing import checkpointed
from hies.scoring.entropy import attention_entropy
from hies.scoring.entropy_kinds import PREFIX, Entropy, entropy_named
from hies.scoring.gradients import all_zero, gradients, not_finite
from hies.scoring.losses import IGNORED, Loss, default_loss, inputs_of, reads_encoder

# What `collect` finds by a search or by backward passes of its own, (model, batches, loss, progress) -> what goes to
# `Statistics.others`, under names that begin with that of the statistic and a slash if there are several.
SEPARATE: dict[str, Callable[..., dict[str, SiteTensors]]] = {"taylor": head_saliences, "greedy": removal_order}
STATISTICS = ("his", "his_token", "ae", "l2", "output_norm", *SEPARATE)  # and `Entropy.need` of every other entropy


@dataclass(frozen=True)
class Statistics:
    """What one calibration pass found; every tensor is float64 on the CPU.

    gradient: dL(x)/dm_h, signed, {site: [examples, heads]}. entropy: AE_h(x) in [0, 1], NaN where an example tells
    nothing, {site: [examples, heads]}. weight_norm: {site: [heads]}. heads: {site: number of heads}, always there.
    others: what only variants of the criteria need, by its name in `need`, {site: [examples, heads]}: `his_token`, the
    sum over tokens of the absolute gradient of a gate per token, and entropies other than Shannon's, like `entropy`;
    `output_norm`, the mean over tokens of the norm of a head's output. What is one number per head, {site: [heads]}:
    `taylor/...` (`hies.methods.llm_pruner.taylor`) and `greedy` (`hies.methods.greedy.search`).
    seconds: what the pass took.
    """

    heads: dict[str, int]
    examples: int
    gradient: SiteTensors = field(default_factory=dict)
    entropy: SiteTensors = field(default_factory=dict)
    weight_norm: SiteTensors = field(default_factory=dict)
    others: dict[str, SiteTensors] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def his(self) -> SiteTensors:
        """HIS of equation 1, {site: [heads]}."""
        return {site: equations.head_importance(g) for site, g in self.examples_of("his").items()}

    @property
    def ae(self) -> SiteTensors:
        """AE of appendix B.2.1, in [0, 1], {site: [heads]}."""
        return self.spread(Entropy())

    def spread(self, kind: Entropy) -> SiteTensors:
        """AE with another entropy in the place of Shannon's, in [0, 1], {site: [heads]}."""
        return {site: equations.attention_entropy(e) for site, e in self.examples_of(kind.need).items()}

    def examples_of(self, name: str) -> SiteTensors:
        """A statistic before the mean over the examples, {site: [examples, heads]}; `his` is the signed gradient."""
        own = {"his": self.gradient, "ae": self.entropy}
        return self._collected(name, own[name] if name in own else self.others.get(name, {}))

    @property
    def l2(self) -> SiteTensors:
        """Norm of each head's query, key and value rows and output columns, {site: [heads]}."""
        return self._collected("l2", self.weight_norm)

    def _collected(self, name: str, tensors: SiteTensors) -> SiteTensors:
        if not tensors:
            need = name.partition("/")[0]
            raise HiesError(f"The statistic {need!r} was not collected; call hies.collect(..., need=({need!r},)).")
        return tensors


def collect(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    need: Collection[str] = ("his", "ae"),
    loss: Loss | None = None,
    progress: bool = False,
    checkpoint: bool = False,
) -> Statistics:
    """Pass once over the calibration set, one forward and (for his) one backward pass a batch.

    Every example has gates of its own, so the results do not depend on how the examples are batched. The model is left
    as it was: parameters, gradients, training flags and attention implementation.

    Args:
        model: any model that uses transformers' attention interface.
        batches: dicts that the model accepts, with `labels` where his is needed.
        need: which of `hies.scoring.statistics.STATISTICS` to find; other entropies as `Entropy("renyi", 2).need`.
        loss: (outputs, batch) -> [batch]; by default what fits the model, see `hies.scoring.losses.default_loss`.
        progress: show a progress bar.
        checkpoint: compute the activations of each layer again in the backward pass instead of keeping them: about a
            forward pass more time, and memory for one layer instead of all. The results are the same.

    Raises:
        HiesError: no example, a batch without labels, an unknown statistic, or a gradient that is not finite.
        UnsupportedModelError: the model's heads cannot be reached, or its layers cannot be computed again.
    """
    if isinstance(batches, Mapping):
        raise HiesError("batches is a single dict; give an iterable of them, such as [batch].")
    if isinstance(need, str):
        raise HiesError(f"need is the string {need!r}; give a tuple of names, such as ({need!r},).")
    if unknown := {name for name in need if name not in STATISTICS and not name.startswith(PREFIX)}:
        raise HiesError(f"need names {sorted(unknown)[0]!r}; the statistics are {', '.join(STATISTICS)}.")
    batches = list(batches) if SEPARATE.keys() & set(need) else batches  # they are read more than once
    gauge = _Gauge(set(need), reads_encoder(model))
    loss_of = loss or default_loss(model)
    if gauge.wants_gradient and torch.is_inference_mode_enabled():
        raise HiesError("torch.inference_mode() forbids the gradients that head importance is; use torch.no_grad().")
    started = time.perf_counter()
    again = partial(checkpointed, model) if checkpoint else contextlib.nullcontext
    with evaluating(model), _frozen(model), handling(model, gauge), again():
        for batch in tqdm(batches, desc="scoring", unit="batch", disable=None if progress else True):
            _measure(model, batch, gauge, loss_of)
    if not gauge.examples:
        raise HiesError("There is no calibration example; give at least one batch.")
    if not gauge.heads:
        raise UnsupportedModelError(f"{type(model).__name__} called no attention function, so no head was found.")
    norms = weight_norms(model, gauge.heads) if "l2" in need else {}
    found = {name: _stack(parts) for name, parts in gauge.found.items()}
    for name in sorted(SEPARATE.keys() & set(need)):
        with again():
            parts = SEPARATE[name](model, batches, loss_of, progress)
        found |= {part: {site: values[site] for site in gauge.heads} for part, values in parts.items()}
    seconds = time.perf_counter() - started
    gradient, entropy = (found.pop(name, {}) for name in ("his", "ae"))
    return Statistics(gauge.heads, gauge.examples, gradient, entropy, norms, found, seconds)


def _measure(model: nn.Module, batch: Mapping[str, Any], gauge: "_Gauge", loss: Loss) -> None:
    """Run one batch and let `gauge` take its statistics."""
    gauge.start(batch)
    with torch.set_grad_enabled(gauge.wants_gradient):
        outputs = model(**inputs_of(model, batch, loss))
        gauge.finish(loss(outputs, batch) if gauge.wants_gradient else None)


class _Gauge:
    """The handler of a calibration pass: gates of one per example and head, the entropy of every query, output norms.

    found: statistic -> site -> one tensor [examples, heads] for each batch, float64 on the CPU.
    """

    def __init__(self, need: set[str], reads_encoder: bool) -> None:
        self.wants_gradient, self.wants_tokens = bool(need & {"his", "his_token"}), "his_token" in need
        self.wants_norm = "output_norm" in need
        self.entropies = {name: entropy_named(name) for name in sorted(need) if name.startswith("ae")}
        self.reads_encoder = reads_encoder  # the model has a decoder that reads from an encoder
        self.heads: dict[str, int] = {}
        self.examples = 0
        self.found: dict[str, dict[str, list[Tensor]]] = {name: {} for name in ("his", *self.entropies)}

    def start(self, batch: Mapping[str, Any]) -> None:
        self._batch = batch
        self._size = _batch_size(batch)
        if not self._size:
            raise HiesError("A calibration batch has no example; leave it out.")
        self._gates: dict[str, list[Tensor]] = {}  # one for each call of the site
        self._is_half = False
        self._per_token: dict[tuple[str, str], list[Tensor]] = {}  # NaN where a token does not count
        self._recomputing = False  # layers run again in the backward pass, for the tensors that it needs

    def __call__(self, site: str, call: AttentionCall, output: Tensor) -> Tensor:
        self.heads.setdefault(site, output.shape[2])
        if not self._recomputing:
            self._measure_entropies(site, call)
            if self.wants_norm:
                self._measure_norm(site, call, output)
        return self._gated(site, output) if self.wants_gradient else output

    def _gated(self, site: str, output: Tensor) -> Tensor:
        """The output [rows, tokens, heads, width] times a gate per example and head, or per token as well."""
        # Gates are at least float32: a half-precision sum over tokens and width would lose the gradient's digits.
        options: dict[str, Any] = {"device": output.device, "requires_grad": True}
        options["dtype"] = torch.promote_types(output.dtype, torch.float32)
        self._is_half |= output.dtype == torch.float16
        rows, tokens, heads, _ = output.shape
        per_example = _rows_per_example(output, self._size, site)
        if self.wants_tokens:
            gate = torch.ones(rows, tokens, heads, **options)
            if not self._recomputing:  # else only the gate's value counts: gradients flow to those of the forward pass
                self._gates.setdefault(site, []).append(gate)
        else:
            if site not in self._gates:
                self._gates[site] = [torch.ones(self._size, heads, **options)]
            gate = self._gates[site][0].repeat_interleave(per_example, dim=0)[:, None]
        return (output * gate[..., None]).to(output.dtype)

    @torch.no_grad()
    def _measure_entropies(self, site: str, call: AttentionCall) -> None:
        """Note H_t / log n_t (and its like) of one call, NaN where the query does not count."""
        by_order: dict[float, Tensor] = {}
        for name, kind in self.entropies.items():
            if kind.renyi_order not in by_order:
                by_order[kind.renyi_order] = attention_entropy(
                    call.query, call.key, call.mask, call.scale, call.causal, kind.renyi_order,
                    bias=call.bias, softcap=call.softcap, sinks=call.sinks,
                )  # fmt: skip
            visible = visible_keys(call)  # a query that sees one key has no relative entropy
            relative = kind.relative(by_order[kind.renyi_order], visible)
            self._note(name, site, call, relative, visible > 1)

    @torch.no_grad()
    def _measure_norm(self, site: str, call: AttentionCall, output: Tensor) -> None:
        """Note the norm of the output [rows, tokens, heads, width] at every token, NaN at padding."""
        self._note("output_norm", site, call, equations.token_output_norm(output).transpose(1, 2))

    def _note(self, name: str, site: str, call: AttentionCall, values: Tensor, defined: Tensor | None = None) -> None:
        """Keep values [rows, heads, queries] as [batch, heads, tokens of the example], NaN at padding.

        defined: where a value is a number, broadcastable to the values; None: everywhere.
        """
        decodes = self.reads_encoder and "decoder" in site
        real = decoder_tokens(call, self._batch) if decodes else real_queries(call, self._batch)
        per_example = _rows_per_example(values, self._size, site)
        strange = ~values.isfinite() if defined is None else ~values.isfinite() & defined
        if real is not None:
            values, strange = values.masked_fill(~real, torch.nan), strange & real
        if strange.any():
            example = self.examples + int(strange.flatten(1).any(dim=1).nonzero()[0]) // per_example
            raise HiesError(f"Example {example} has hidden states that are not finite at site {site!r}.")
        of_examples = values.unflatten(0, (-1, per_example)).transpose(1, 2).flatten(2)
        self._per_token.setdefault((name, site), []).append(of_examples)

    def finish(self, losses: Tensor | None) -> None:
        for (name, site), values in self._per_token.items():
            joined = torch.cat(values, dim=-1).double()
            of_norms = name == "output_norm"
            mean = equations.output_norm_of_examples if of_norms else equations.attention_entropy_of_examples
            self._add(name, site, mean(joined))
        if losses is not None:
            if losses.shape != (self._size,):
                raise HiesError(
                    f"The loss has the shape {tuple(losses.shape)} for {self._size} examples, not one each."
                )
            # Each example's loss depends on its own gates alone, so one backward pass of the sum serves them all.
            gates = [gate for of_site in self._gates.values() for gate in of_site]
            self._recomputing = True
            found = iter(gradients(losses.sum(), gates, self._is_half))
            for site, of_site in self._gates.items():
                self._add_gradients(site, [next(found) for _ in of_site])
            self._check_felt()
        self.examples += self._size

    def _check_felt(self) -> None:
        felt = torch.cat([of_site[-1] for of_site in self.found["his"].values()], dim=1).any(dim=1)
        if self._is_half and not felt.all():
            raise all_zero(self.examples + int((~felt).nonzero()[0]))

    def _add_gradients(self, site: str, found: list[Tensor]) -> None:
        """found: the gradients of every gate of a site, [examples, heads] or [rows, tokens, heads]."""
        if self.wants_tokens:
            per_token = torch.cat([g.double().unflatten(0, (self._size, -1)).flatten(1, 2) for g in found], dim=1)
            self._add("his_token", site, self._finite(site, per_token.abs().sum(dim=1)))
            self._add("his", site, per_token.sum(dim=1))
        else:
            self._add("his", site, self._finite(site, found[0]))

    def _add(self, name: str, site: str, values: Tensor) -> None:
        self.found.setdefault(name, {}).setdefault(site, []).append(values.double().cpu())

    def _finite(self, site: str, gradient: Tensor) -> Tensor:
        if (bad := ~gradient.isfinite()).any():
            row = int(bad.any(dim=1).nonzero()[0])
            raise not_finite(self.examples + row, site, self._is_half)
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


def real_queries(call: AttentionCall, batch: Mapping[str, Any]) -> Tensor | None:
    """Which queries are tokens and not padding, broadcastable to [rows, heads, queries]; None if all of them are.

    In self-attention a padded token is one that no query sees, unless (sparse attention) the batch calls it real. In
    attention to something else (a picture) the batch tells.
    """
    if call.mask is None:
        return None
    given = batch.get("attention_mask")
    real = (
        given.bool()[:, None]
        if given is not None and given.shape == (call.query.shape[0], call.query.shape[2])
        else None
    )
    if call.mask.shape[-1] != call.query.shape[2]:
        return real
    seen = call.mask.any(dim=-2)
    return seen if real is None else seen | real


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
    if not batch:
        raise HiesError("A calibration batch is an empty dict; give what the model reads.")
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
