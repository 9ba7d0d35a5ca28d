"""Scoring LLaMA-2-7B's shape in bfloat16: time and memory against a forward pass and the classical way."""

import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

import hies
from benchmarks.gpu import llama
from benchmarks.gpu.eager import classical
from benchmarks.gpu.machine import Machine, Row
from benchmarks.gpu.report import limit
from benchmarks.rounds import ratio
from benchmarks.seven_billion import memory_of, scoring_memory
from hies.batching import Batch

FORWARD, KEPT, AGAIN, CLASSICAL = "a forward pass", "HIS and AE", "HIS and AE, computed again", "the classical way"
LIMITS = {KEPT: 2.3, AGAIN: 3.3}  # forward passes
CARD = 24e9  # bytes
ROUNDS = 3


def measure(machine: Machine) -> Iterator[Row]:
    """Yields seconds and memory of one text of each length, then what is estimated, then the classical way."""
    chosen = llama.sizes(machine.tiny)
    lengths = (16, 32) if machine.tiny else (2048, 4096)
    yield from _estimates(chosen, lengths[0])
    model = llama.build(machine.device, **chosen)
    for tokens in lengths:
        yield from _measured(machine, model, llama.text(machine.device, chosen["vocab_size"], tokens))
    if not machine.tiny:
        yield from _estimates(chosen, lengths[1])
    batch = llama.text(machine.device, chosen["vocab_size"], lengths[0])
    yield _classical(machine, model, batch)


def _measured(machine: Machine, model: PreTrainedModel, batch: Batch) -> Iterator[Row]:
    tokens = batch["input_ids"].shape[1]
    ways: dict[str, Callable[[], object]] = {
        FORWARD: lambda: _forward(model, batch),
        AGAIN: lambda: hies.collect(model, [batch], checkpoint=True),
        KEPT: lambda: hies.collect(model, [batch]),
    }
    peaks = {name: _peak(machine, model, batch, way) for name, way in ways.items()}
    seconds = machine.in_turn({name: way for name, way in ways.items() if peaks[name] is not None}, ROUNDS)
    for name in ways:
        row = {"tokens": tokens, "way": name, "peak_bytes": peaks[name]}
        if name not in seconds:
            yield row | {"note": "does not fit this card"}
            continue
        passes = ratio(seconds[name], seconds[FORWARD])
        yield row | {"median_seconds": statistics.median(seconds[name]), "forward passes": passes}


def _peak(machine: Machine, model: PreTrainedModel, batch: Batch, way: Callable[[], object]) -> int | None:
    """Returns the bytes of the weights and of what a way adds to them; None where that does not fit the card."""
    known = [*model.parameters(), *model.buffers(), *batch.values()]
    try:
        return sum(parameter.nbytes for parameter in model.parameters()) + machine.peak(way, known)
    except torch.OutOfMemoryError:
        model.zero_grad(set_to_none=True)
        return None


@torch.no_grad()
def _forward(model: PreTrainedModel, batch: Batch) -> None:
    model(input_ids=batch["input_ids"])


def _classical(machine: Machine, model: PreTrainedModel, batch: Batch) -> Row:
    """Returns what the classical way takes where it fits; it keeps all attention weights, and gradients of weights."""
    sites = hies.find_sites(model, batch)
    times: list[float] = []
    peak = _peak(machine, model, batch, lambda: times.append(machine.once(lambda: classical(model, batch, sites))))
    row: Row = {"tokens": batch["input_ids"].shape[1], "way": CLASSICAL, "peak_bytes": peak}
    if peak is None:
        return row | {"note": "does not fit this card"}
    return row | {"median_seconds": times[0], "forward passes": times[0] / machine.once(lambda: _forward(model, batch))}


def _estimates(chosen: dict, tokens: int) -> Iterator[Row]:
    """Yields memory counted on tensors without data: of two and of three layers, from which follow those of all."""
    peaks: dict[str, list[int]] = {KEPT: [], AGAIN: [], CLASSICAL: []}
    weights: list[int] = []
    with FakeTensorMode():
        for layers in (2, 3):
            model = llama.build("cpu", **(chosen | {"num_hidden_layers": layers}))
            batch = llama.text("cpu", chosen["vocab_size"], tokens)
            weights.append(sum(parameter.nbytes for parameter in model.parameters()))
            for name, again in ((KEPT, False), (AGAIN, True)):
                peaks[name].append(scoring_memory(model, batch, again).peak)
            sites = hies.find_sites(model, batch)
            known = [*model.parameters(), *model.buffers(), *batch.values()]
            peaks[CLASSICAL].append(memory_of(lambda: classical(model, batch, sites), known).peak)  # noqa: B023
    for name, (two, three) in peaks.items():
        more = chosen["num_hidden_layers"] - 2
        total = two + weights[0] + more * (three - two + weights[1] - weights[0])
        yield {"kind": "estimated", "tokens": tokens, "way": name, "peak_bytes": total}


def limits(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields that scoring takes so many forward passes, and fits a card of 24 GB."""
    measured = [row for row in rows if row["kind"] == "measured"]
    for way, most in LIMITS.items():
        passes = [row.get("forward passes") for row in measured if row["way"] == way]
        yield limit(f"{way}, in forward passes", passes, most=most)
    peaks = [row["peak_bytes"] for row in measured if row["way"] == AGAIN and row["tokens"] <= 2048]
    yield limit(f"{AGAIN}, at 2,048 tokens, in bytes", peaks, most=CARD)
