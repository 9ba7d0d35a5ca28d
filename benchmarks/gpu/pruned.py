"""LLaMA's shape of seven billion parameters, pruned: tokens per second and bytes against what the FLOPs promise."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

import hies
from benchmarks.gpu import llama
from benchmarks.gpu.machine import Machine, Row
from benchmarks.gpu.report import limit
from hies.batching import Batch
from hies.efficiency.measure import cache_bytes
from hies.efficiency.measure import measure as measure_efficiency
from hies.pruning.selection import group_sizes

RATIOS = (0.25, 0.5)
WITHIN = 0.9  # of the speed that the FLOPs promise
ROUNDS = 7


def measure(machine: Machine) -> Iterator[Row]:
    """Yields, for heads of their own and for grouped ones, each ratio: LLaMA-2-7B first."""
    chosen = llama.sizes(machine.tiny)
    for key_heads in (chosen["num_attention_heads"], chosen["num_attention_heads"] // 4):
        yield from _of_shape(machine, chosen | {"num_key_value_heads": key_heads})


def _of_shape(machine: Machine, chosen: dict) -> Iterator[Row]:
    model = llama.build(machine.device, **chosen)
    batch = {"input_ids": llama.text(machine.device, chosen["vocab_size"], 24 if machine.tiny else 2048)["input_ids"]}
    sites = hies.find_sites(model, batch)
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(site.heads, generator=generator) for name, site in sites.items()}
    grouped = chosen["num_key_value_heads"] < chosen["num_attention_heads"]
    dense = _decoding(machine, model, batch)
    for ratio in RATIOS[1:] if machine.tiny else RATIOS:
        for unit in ("head", "kv_group") if grouped else ("head",):
            removed = hies.select(scores, ratio, groups=group_sizes(sites) if unit == "kv_group" else None)
            small = hies.prune(model, removed, unit)
            row = {"key heads": chosen["num_key_value_heads"], "removed": f"{ratio:.0%} by {unit}"}
            yield row | _row(machine, model, small, batch, dense)
            del small
            machine.release()


def _row(machine: Machine, model: PreTrainedModel, small: PreTrainedModel, batch: Batch, dense: float) -> Row:
    """Returns the speed and the size of a pruned model beside the dense one, whose decoding speed is known."""
    found = measure_efficiency(model, small, batch, 1 if machine.tiny else ROUNDS)
    tokens = batch["input_ids"].numel()
    promised, speedup = found.dense.flops / found.small.flops, 1 / found.latency.median
    decoding = _decoding(machine, small, batch)
    # A token reads all weights once, and the cache.
    read = [running.weight_bytes + (running.cache_bytes or 0) for running in (found.dense, found.small)]
    return {
        "prefill tokens/s": tokens / found.small.seconds.median,
        "dense": tokens / found.dense.seconds.median,
        "speedup": speedup,
        "FLOPs promise": promised,
        "share of it": speedup / promised,
        "dense per second_flops": found.dense.flops / found.dense.seconds.median,
        "pruned per second_flops": found.small.flops / found.small.seconds.median,
        "decoding tokens/s": decoding,
        "decoding dense": dense,
        "decoding speedup": decoding / dense,
        "bytes promise": read[0] / read[1],
        "weights_bytes": found.small.weight_bytes,
        "peak_bytes": found.small.peak_bytes,
        "cache_bytes": found.small.cache_bytes,
        "dense cache_bytes": cache_bytes(model, batch),
    }


@torch.no_grad()
def _decoding(machine: Machine, model: PreTrainedModel, batch: Batch) -> float:
    """Returns the tokens per second, one after the other, of a text that is continued greedily."""
    prompt, count = batch["input_ids"][:, :-1], 2 if machine.tiny else 32
    cache = model(prompt, use_cache=True).past_key_values
    token = batch["input_ids"][:, -1:]

    def step() -> None:
        nonlocal token
        logits: Tensor = model(token, past_key_values=cache, use_cache=True).logits
        token = logits[:, -1:].argmax(dim=-1)

    step()  # warms up
    return 1 / machine.once(step, count)


def limits(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields that prefill is nearly as fast as the FLOPs promise."""
    shares = [row["share of it"] for row in rows]
    yield limit("prefill of 2,048 tokens, pruned, share of the speed that the FLOPs promise", shares, least=WITHIN)
