"""One pass over the calibration set, which gives the statistics that all methods of a job need.

What is kept is per example: the signed gradient of each gate and the attention entropy of each head, [examples, heads]
of every site. That is a few megabytes for the largest models, and every score is a reduction of it.
"""

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from itertools import chain
from pkgutil import resolve_name
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from hies import equations
from hies.errors import HiesError, ParameterError, UnsupportedModelError
from hies.heads.attention import evaluating, handling, no_heads
from hies.heads.calls import Call
from hies.heads.matrices import matrix
from hies.heads.projections import find_projections
from hies.heads.sites import SiteTensors
from hies.heads.unseen import noting_runs, warn_of_unseen
from hies.heads.weights import check_weights_are_here
from hies.progress import ProgressBar
from hies.scoring.checkpointing import checkpointed
from hies.scoring.entropy import entropy_of_call
from hies.scoring.entropy_kinds import ENTROPY_PREFIX, entropy_named
from hies.scoring.examples import check_batches, examples_in
from hies.scoring.gradients import all_zero, differentiated, gradients, not_finite, requiring_gradients
from hies.scoring.losses import DefaultLoss, Loss, check_losses, default_loss, is_of_transformers
from hies.scoring.own_loss import with_loss
from hies.scoring.rows import parts_of, rows_per_example
from hies.scoring.statistics import METHOD_STATISTICS, Statistics
from hies.scoring.tokens import CountedQueries, visible_keys
from hies.scoring.unreached import warn_of_unreached

OF_GRADIENTS = ("his", "his_token")
OF_THE_PASS = (*OF_GRADIENTS, "ae", "l2", "output_norm")  # and `Entropy.need` of every other entropy


def collect(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    need: Collection[str] = ("his", "ae"),
    loss: Loss | None = None,
    progress: bool = False,
    checkpoint: bool = False,
) -> Statistics:
    """Passes once over the calibration set, one forward and (for his) one backward pass a batch.

    Every example has its own gates, so the results do not depend on how the examples are batched. The model is left
    as it was: parameters, gradients, training flags and attention implementation. Meanwhile no other thread or task may
    use it.

    Args:
        model: any model whose heads `hies.find_sites` finds.
        batches: dicts that the model accepts, with `labels` where his is needed.
        need: names of statistics, see `Statistics`; other entropies as `Entropy("renyi", 2).need`.
        loss: (outputs, batch) -> [batch], each example's own; by default the model's, see `hies.scoring.own_loss`.
        progress: show a progress bar.
        checkpoint: compute the activations of each layer again in the backward pass instead of keeping them: about a
            forward pass more time, and memory for one layer instead of all. The results are the same.

    Raises:
        HiesError: no example, a batch without labels or whose pictures are not evenly its examples', an unknown
            statistic, a gradient that is not finite, or another thread or task that uses the model.
        UnsupportedModelError: the model's heads cannot be reached, or its layers cannot be computed again.
    """
    _check(batches, need)
    check_weights_are_here(model, "hies.collect", hooked_will_do="l2" not in need)
    brought = [METHOD_STATISTICS[name] for name in sorted(METHOD_STATISTICS.keys() & set(need))]
    reads_loss = any(statistic.reads_loss for statistic in brought)
    loss_of = loss or default_loss(model)
    is_callers = not isinstance(loss_of, DefaultLoss)
    queries = CountedQueries(model)
    collector = StatisticsCollector({*need, "his"} if is_callers and reads_loss else set(need), queries)
    collector.checks_mixing = is_callers or not is_of_transformers(model)  # gradients show whether examples mix
    if collector.wants_gradient and torch.is_inference_mode_enabled():
        raise HiesError("torch.inference_mode() forbids the gradients that head importance is; use torch.no_grad().")
    started = time.perf_counter()
    if loss is None and (collector.wants_gradient or reads_loss):
        batches, loss_of = with_loss(model, batches)
    batches = list(batches) if brought else batches  # they are read more than once
    recomputing = partial(checkpointed, model) if checkpoint else contextlib.nullcontext
    noting = queries.run() if collector.reads_queries else contextlib.nullcontext()
    with (
        noting_runs(model) as ran, handling(model, collector), evaluating(model), requiring_gradients(model),
        recomputing(), noting,
    ):  # fmt: skip
        bar = ProgressBar(batches, "scoring", unit="batch", shown=progress)
        for batch in chain.from_iterable(parts_of(model, batch, loss_of) for batch in bar):
            with torch.set_grad_enabled(collector.wants_gradient):
                outputs = queries.answered(batch, loss_of, partial(collector.start, batch))
                if not collector.heads:
                    raise UnsupportedModelError(no_heads(model))
                collector.finish(loss_of(outputs, batch) if collector.wants_gradient else None)
    warn_of_unseen(model, collector.heads, ran, stacklevel=2)
    if not collector.examples:
        raise HiesError("There is no calibration example; give at least one batch.")
    tensors = collector.tensors()
    if unreached := {site: collector.seen_in[site] for site, of in tensors.get("his", {}).items() if (of == 0).all()}:
        if len(unreached) == len(collector.heads):
            raise HiesError(
                "The loss depends on no head: all gradients of all examples are zero, so they rank nothing (does the "
                "model run under torch.no_grad(), or detach what its heads give?)."
            )
        warn_of_unreached(model, unreached, collector.heads, loss_of, stacklevel=2)
    if "l2" in need:
        tensors["l2"] = {site: _weight_norms(model, site) for site in collector.heads}
    for statistic in brought:
        with recomputing():
            parts = resolve_name(statistic.collect)(model, batches, loss_of, progress)
        tensors |= {name: {site: values[site] for site in collector.heads} for name, values in parts.items()}
    return Statistics(collector.heads, collector.examples, tensors, time.perf_counter() - started)


def _check(batches: Any, need: Collection[str]) -> None:
    check_batches(batches)
    if isinstance(need, str):
        raise HiesError(f"need is the string {need!r}; give a tuple of names, such as ({need!r},).")
    if not isinstance(need, Collection):
        raise ParameterError("need", need, "give names of statistics, such as ('his', 'ae')")
    known = (*OF_THE_PASS, *METHOD_STATISTICS)
    if unknown := [name for name in need if name not in known and not str(name).startswith(ENTROPY_PREFIX)]:
        raise ParameterError("need", unknown[0], f"the statistics are {', '.join(known)}")


@torch.no_grad()
def _weight_norms(model: nn.Module, site: str) -> Tensor:
    """Returns the L2 norm of each head's query, key and value rows and output columns, [heads], float64 on the CPU.

    The rows of a key/value head that several query heads share count for each of them.
    """
    found = find_projections(model, site)
    total = torch.zeros(found.heads, dtype=torch.float64)
    for part in (found.query, found.key, found.value, found.output):
        weights = matrix(part.module)
        rows = weights.T if part is found.output else weights
        squares = rows.double().square().sum(dim=1).cpu()[part.rows].sum(dim=1)  # [heads of the projection]
        total += squares[found.places_in(part)]
    return total.sqrt()


class StatisticsCollector:
    """The handler of a calibration pass: gates of one per example and head, the entropy of every query, output norms.

    Attributes:
        heads: site -> its number of heads, of the sites seen so far.
        seen_in: site -> the first batch that reached it.
        examples: how many examples have passed.
        wants_gradient: a statistic needs a backward pass.
        reads_queries: a statistic is a mean over the queries that are no padding.
        checks_mixing: the next batch of several examples shows whether they mix in the loss.
    """

    def __init__(self, need: set[str], queries: CountedQueries) -> None:
        self.wants_gradient, self.wants_tokens = bool(need & {"his", "his_token"}), "his_token" in need
        self.wants_norm = "output_norm" in need
        self.entropies = {name: entropy_named(name) for name in sorted(need) if name.startswith("ae")}
        self.reads_queries = self.wants_norm or bool(self.entropies)
        self._queries = queries
        self.checks_mixing = False
        self.heads: dict[str, int] = {}
        self.seen_in: dict[str, Mapping[str, Any]] = {}
        self.examples = 0
        self._is_open = False  # in the passes of a batch, from `start` to `finish`
        # (place of the first example, [examples, heads]) of every batch, by statistic and site
        self._parts: dict[str, dict[str, list[tuple[int, Tensor]]]] = {}

    def tensors(self) -> dict[str, SiteTensors]:
        """Returns the statistics of all examples so far, statistic -> site -> [examples, heads], float64 on the CPU.

        Where an example did not reach a site (no picture for a vision tower), gradients are 0, and the rest is NaN.
        """
        return {
            name: {
                site: self._of_all(site, parts, 0 if name in OF_GRADIENTS else torch.nan) for site, parts in of.items()
            }
            for name, of in self._parts.items()
        }

    def _of_all(self, site: str, parts: list[tuple[int, Tensor]], missing: float) -> Tensor:
        values = parts[0][1].new_full((self.examples, self.heads[site]), missing)
        for first, part in parts:
            values[first : first + len(part)] = part
        return values

    def start(self, batch: Mapping[str, Any]) -> None:
        """Prepares for a forward pass over a batch."""
        self._batch, self._size, self._is_open = batch, examples_in(batch), True
        self._gates: dict[str, list[Tensor]] = {}  # one for each call of the site
        self._is_half = False
        self._per_token: dict[tuple[str, str], list[Tensor]] = {}  # NaN where a token does not count
        self._last: dict[str, ref[Call]] = {}  # of each site; gone with its tensors
        self._recomputing = False  # layers run again in the backward pass, for the tensors that it needs

    def __call__(self, site: str, call: Call, output: Tensor) -> Tensor:
        """Returns the output [rows, tokens, heads, width] of a call, gated where gradients are needed."""
        if not self._is_open or self._queries.is_learning:
            return output
        self.heads.setdefault(site, output.shape[2])
        self.seen_in.setdefault(site, self._batch)
        if not self._recomputing:
            is_first = site not in self._last or self._last[site]() is not call
            if is_first:  # weights in parts have several products
                self._queries.look(site, call)
                self._measure_entropies(site, call)
            if (self.wants_norm or self.wants_tokens) and not is_first:
                parts = f"Site {site!r} adds up the output of a head in parts"
                raise UnsupportedModelError(f"{parts}, so it has neither output_norm nor his_token.")
            if self.wants_norm:  # [rows, tokens, heads] -> [rows, heads, tokens]
                self._note("output_norm", site, call, equations.token_output_norm(output.detach()).transpose(1, 2))
        self._last[site] = ref(call)
        return self._gated(site, output) if self.wants_gradient else output

    def _gated(self, site: str, output: Tensor) -> Tensor:
        """Returns the output [rows, tokens, heads, width] times a gate per example and head, or per token as well."""
        # Gates are at least float32: a half-precision sum over tokens and width would lose the gradient's digits.
        options: dict[str, Any] = {"device": output.device, "requires_grad": True}
        options["dtype"] = torch.promote_types(output.dtype, torch.float32)
        self._is_half |= output.dtype == torch.float16
        rows, tokens, heads, _ = output.shape
        per_example = rows_per_example(output, self._size, site)
        if self.wants_tokens:
            gate = torch.ones(rows, tokens, heads, **options)
            if not self._recomputing:  # else only the gate's value counts: gradients flow to those of the forward pass
                self._gates.setdefault(site, []).append(gate)
        else:
            if site not in self._gates:
                self._gates[site] = [torch.ones(self._size, heads, **options)]
            gate = self._gates[site][0].repeat_interleave(per_example, dim=0)[:, None]  # [rows, 1, heads]
        return (output * gate[..., None]).to(output.dtype)

    @torch.no_grad()
    def _measure_entropies(self, site: str, call: Call) -> None:
        """Notes H_t / log n_t (and its like) of one call, NaN where the query does not count."""
        by_order: dict[float, Tensor] = {}
        for name, kind in self.entropies.items():
            if kind.renyi_order not in by_order:
                by_order[kind.renyi_order] = entropy_of_call(call, kind.renyi_order)
            visible = visible_keys(call)  # a query that sees one key has no relative entropy
            relative = kind.relative(by_order[kind.renyi_order], visible)
            self._note(name, site, call, relative, visible > 1)

    def _note(self, name: str, site: str, call: Call, values: Tensor, defined: Tensor | None = None) -> None:
        """Keeps values of queries, [rows, heads, queries], as those of an example's tokens, NaN at padding.

        `defined` is True where a value has to be a number, broadcastable to the values; None: everywhere.
        """
        real = self._queries.of(site, call)
        per_example = rows_per_example(values, self._size, site)
        broken = ~values.isfinite() if defined is None else ~values.isfinite() & defined
        if real is not None:
            values, broken = values.masked_fill(~real, torch.nan), broken & real
        if broken.any():
            example = self.examples + int(broken.flatten(1).any(dim=1).nonzero()[0]) // per_example
            raise HiesError(f"Example {example} has hidden states that are not finite at site {site!r}.")
        # [batch * rows of an example, heads, queries] -> [batch, heads, rows of an example * queries]
        of_examples = values.unflatten(0, (-1, per_example)).transpose(1, 2).flatten(2)
        self._per_token.setdefault((name, site), []).append(of_examples)

    def finish(self, losses: Tensor | None) -> None:
        """Takes the statistics of the batch after its forward pass; losses [batch], None if no gradient is needed."""
        for (name, site), values in self._per_token.items():
            self._add(name, site, equations.mean_over_tokens(torch.cat(values, dim=-1).double()))
        if losses is not None:
            check_losses(losses, self._size)
            # Each example's loss depends on its own gates alone, so one backward pass of the sum serves them all.
            gates = [gate for of_site in self._gates.values() for gate in of_site]
            self._recomputing = True
            self._check_mixing(losses, gates)
            by_gate = iter(gradients(losses.sum(), gates, self._is_half))
            for site, of_site in self._gates.items():
                self._add_gradients(site, [next(by_gate) for _ in of_site])
            self._check_underflow()
        self.examples += self._size
        self._is_open = False

    def _check_mixing(self, losses: Tensor, gates: list[Tensor]) -> None:
        """Refuses a first example whose loss reaches the gates of others, by the caller's loss or the model's rows."""
        if not self.checks_mixing or self._size == 1:
            return
        self.checks_mixing = False
        reached = differentiated(losses[0], gates, keep=True)
        # Not finite where a loss of zero weight is: that is refused with its example.
        if any((of_gate[len(of_gate) // self._size :].nan_to_num(0, 0, 0) != 0).any() for of_gate in reached):
            raise HiesError(
                "The loss of an example depends on the others of its batch (contrastive), or the model lays its rows "
                "elsewhere (torch.cat of two texts each); give another loss, or each example a batch of its own."
            )

    def _check_underflow(self) -> None:
        """Refuses an example whose gradients are all zero in float16."""
        if self._is_half:
            latest = [parts[-1] for parts in self._parts["his"].values()]
            reached = [values for first, values in latest if first == self.examples]
            nonzero = torch.cat(reached, dim=1).any(dim=1)  # [batch]
            if not nonzero.all():
                raise all_zero(self.examples + int((~nonzero).nonzero()[0]))

    def _add_gradients(self, site: str, of_gates: list[Tensor]) -> None:
        """Takes the gradients of every gate of a site, [batch, heads] or [rows, tokens, heads]."""
        if self.wants_tokens:
            # [batch * rows of an example, tokens, heads] -> [batch, rows of an example * tokens, heads]
            per_token = torch.cat([g.double().unflatten(0, (self._size, -1)).flatten(1, 2) for g in of_gates], dim=1)
            self._add("his_token", site, self._finite(site, per_token.abs().sum(dim=1)))
            self._add("his", site, per_token.sum(dim=1))
        else:
            self._add("his", site, self._finite(site, of_gates[0]))

    def _add(self, name: str, site: str, values: Tensor) -> None:
        self._parts.setdefault(name, {}).setdefault(site, []).append((self.examples, values.double().cpu()))

    def _finite(self, site: str, gradient: Tensor) -> Tensor:
        if (bad := ~gradient.isfinite()).any():
            row = int(bad.any(dim=1).nonzero()[0])
            raise not_finite(self.examples + row, site, self._is_half)
        return gradient
