"""What a model costs when it runs: parameters, FLOPs, latency, memory; a dense model beside a pruned one."""

import contextlib
import ctypes
import functools
import inspect
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import EncoderDecoderCache, PreTrainedModel

from hies.batching import Batch
from hies.efficiency.cost import cost_model, count
from hies.errors import HiesError, ParameterError
from hies.heads.attention import evaluating
from hies.heads.sites import Removed
from hies.heads.weights import check_weights_are_here
from hies.pruning.removal import pruned_heads

WARM_UP = 2  # rounds that are not counted
KEEP_BELOW = 32 << 20  # bytes; the largest threshold that glibc takes


@dataclass(frozen=True)
class Quartiles:
    """The median of a measurement over rounds, and its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        """Returns those of some values, interpolated linearly between neighbours."""
        return cls(*(float(value) for value in np.quantile(values, (0.25, 0.5, 0.75))))


@dataclass(frozen=True)
class Running:
    """One model on one batch.

    Attributes:
        parameters: weights and biases.
        flops: of one forward pass; a multiply-add is two.
        weight_bytes: parameters and buffers.
        pass_bytes: tensors that a forward pass without gradients holds at its peak beside the weights and the batch.
        cache_bytes: keys and values that a decoder keeps of the batch; None for other models.
        seconds: of a forward pass.
    """

    parameters: int
    flops: int
    weight_bytes: int
    pass_bytes: int
    cache_bytes: int | None
    seconds: Quartiles

    @property
    def peak_bytes(self) -> int:
        """The memory that a forward pass takes, weights included."""
        return self.weight_bytes + self.pass_bytes


@dataclass(frozen=True)
class Efficiency:
    """A dense and a pruned model on the same batch.

    Attributes:
        dense: what it was before.
        small: what it is after pruning.
        latency: seconds of small / dense within a round.
    """

    dense: Running
    small: Running
    latency: Quartiles


def measure(
    dense: PreTrainedModel, small: PreTrainedModel, batch: Batch, rounds: int = 15, threads: int = 1
) -> Efficiency:
    """Runs both models in turn, round after round, so that what else the machine does falls on both alike.

    A script that only measures should call `keep_freed_memory` first.

    Args:
        dense: a model that accepts `batch`, on the device where it lies.
        small: made from it by `hies.prune`.
        batch: what the models are called with; its shape decides FLOPs, latency, peak and cache.
        rounds: of one forward pass of each model that are counted, after two that warm up.
        threads: of the CPU.

    Raises:
        UnsupportedModelError: the heads of the model, or their weights, are not found, tied, offloaded or quantised.
        HiesError: fewer than one round or thread, or `small` was not made from `dense`.
    """
    _check_least(1, rounds=rounds, threads=threads)
    for model in (dense, small):
        check_weights_are_here(model, "measure")
    cut_out = _cut_out(dense, small)
    cost = cost_model(dense, batch, cut_out)
    if cost.without(cut_out).parameters != sum(parameter.numel() for parameter in small.parameters()):
        origin = "what hies.prune or hies.load_pruned makes of the dense one"
        raise HiesError(f"The small model is not {origin}; its FLOPs are unknown.")
    flops = (cost.dense.flops, count(small, batch).flops)
    with _threads(threads), evaluating(dense), evaluating(small), torch.no_grad():
        seconds = _timed((dense, small), batch, rounds)
        before, after = (_running(*each, batch) for each in zip((dense, small), flops, seconds, strict=True))
    return Efficiency(before, after, Quartiles.of([b / a for a, b in zip(*seconds, strict=True)]))


@dataclass(frozen=True)
class Speed:
    """Tokens a second of a dense and a pruned model.

    Attributes:
        dense: of the one.
        small: of the other.
        gain: small / dense within a round.
    """

    dense: Quartiles
    small: Quartiles
    gain: Quartiles


def measure_speed(
    dense: PreTrainedModel, small: PreTrainedModel, batch: Batch, new_tokens: int = 0, rounds: int = 7
) -> Speed:
    """Runs both language models in turn, as `measure` does.

    Args:
        dense: a model.
        small: made from it.
        batch: texts of one length, without labels, on the device of both.
        new_tokens: 0: the tokens of the texts are counted, which one forward pass reads; else so many are generated
            after each text, greedily and with a cache. They alone are counted, though reading the texts is in the time.
        rounds: that are counted, after two that warm up.
    """
    _check_least(1, rounds=rounds)
    _check_least(0, new_tokens=new_tokens)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    runs: list[Any] = [dense, small]
    if new_tokens:
        runs = [functools.partial(model.generate, **options) for model in runs]
    texts, length = batch["input_ids"].shape
    with evaluating(dense), evaluating(small), torch.no_grad():
        times = np.array(_timed(runs, batch, rounds))  # [models, rounds]
    speeds = texts * (new_tokens or length) / times
    return Speed(*map(Quartiles.of, (*speeds, speeds[1] / speeds[0])))


def _check_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ParameterError(name, value, f"it must be {least} or more")


def _cut_out(dense: nn.Module, small: nn.Module) -> Removed:
    """Returns the heads that `small` lacks, in the counting of `dense`, which may have been pruned before."""
    cut_out: Removed = {}
    for site, heads in pruned_heads(small).items():
        earlier = pruned_heads(dense).get(site, [])
        cut_out[site] = [head - sum(one < head for one in earlier) for head in heads if head not in earlier]
    return cut_out


def _running(model: nn.Module, flops: int, seconds: Sequence[float], batch: Batch) -> Running:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(_storages([*model.parameters(), *model.buffers()]).values())
    peak, cache = pass_bytes(model, batch), cache_bytes(model, batch)
    return Running(parameters, flops, weights, peak, cache, Quartiles.of(seconds))


def _timed(models: Sequence[Callable[..., Any]], batch: Batch, rounds: int) -> list[list[float]]:
    """Returns seconds of each model in each round; every other round begins at the other end."""
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(WARM_UP + rounds):
        for i in range(len(models))[:: 1 if turn % 2 else -1]:
            _wait(batch)
            started = time.perf_counter()
            models[i](**batch)
            _wait(batch)
            seconds[i].append(time.perf_counter() - started)
    return [times[WARM_UP:] for times in seconds]


def keep_freed_memory() -> None:
    """Makes the C library of Linux keep what forward passes free, for the rest of the process.

    Else glibc gives large blocks back, and whether the next pass pays for fresh pages depends on where the blocks of a
    model happen to lie: up to a tenth of the time of one of two models, by chance. Elsewhere nothing is done.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, KEEP_BELOW)


@torch.no_grad()
def pass_bytes(model: nn.Module, batch: Batch) -> int:
    """Returns the bytes that one forward pass holds at its peak beside the weights and the batch.

    On CUDA the allocator counts them. Elsewhere the results of all operations count from when they are made until
    nothing holds them; what an operation takes and gives back while it runs is not seen.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        model(**batch)
        return torch.cuda.max_memory_allocated(device) - before
    with _Peak([*model.parameters(), *model.buffers(), *batch.values()]) as counted:
        model(**batch)
    return counted.peak


class _Peak(TorchDispatchMode):
    """Adds up the storages that operations make, as long as they live."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = set(_storages(known))
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self.live and size:
            self.live.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.live.discard(place)
        self.now -= size


@torch.no_grad()
def cache_bytes(model: nn.Module, batch: Batch) -> int | None:
    """Returns the bytes of the keys and values that the model keeps of `batch` for generation; None where none.

    For an encoder and decoder the batch has to hold decoder_input_ids: with labels alone nothing is kept.
    """
    if "use_cache" not in inspect.signature(model.forward).parameters:
        return None
    cache = getattr(model(**batch, use_cache=True), "past_key_values", None)
    if cache is None:
        return None
    two = isinstance(cache, EncoderDecoderCache)
    layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers] if two else cache.layers
    held = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
    return sum(_storages(held).values())


def _storages(values: Iterable[Any]) -> dict[int, int]:
    """Returns where the tensors among `values` lie and the bytes there; what several share counts once."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    places = [value.untyped_storage().data_ptr() or id(value) for value in tensors]  # on the meta device all lie at 0
    return {place: value.untyped_storage().nbytes() for place, value in zip(places, tensors, strict=True)}


def _wait(batch: Mapping[str, Any]) -> None:
    if any(isinstance(value, Tensor) and value.is_cuda for value in batch.values()):
        torch.cuda.synchronize()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
