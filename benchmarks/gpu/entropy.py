"""Entropy alone: the way that is taken and the chunked one against one call of scaled_dot_product_attention."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.machine import Machine, Row
from benchmarks.gpu.report import limit
from benchmarks.rounds import Ways, ratio
from hies import attention_entropy
from hies.scoring import fused

SDPA, ENTROPY, KERNEL, CHUNKED = "SDPA", "entropy", "its kernel alone", "chunked"
LENGTHS = (2048, 4096, 16384, 512, 8192, 1024)  # in order of value
LIMIT, FROM = 1.3, 2048  # of SDPA's time, and from how many tokens on
ALIKE = 1.25  # memory over tokens, of the longest input against that of the shortest that counts


@dataclass(frozen=True)
class Heads:
    """Heads of one example.

    Attributes:
        heads: of queries.
        key_heads: of keys.
        width: of a head.
        dtype: of queries and keys.
        causal: query t sees the keys 0..t.
    """

    heads: int
    key_heads: int
    width: int
    dtype: torch.dtype
    causal: bool


SETTINGS = (
    Heads(32, 32, 128, torch.bfloat16, True),  # LLaMA-2-7B
    Heads(16, 16, 64, torch.bfloat16, False),  # BERT-large, ViT-Large
    Heads(32, 8, 128, torch.bfloat16, True),  # LLaMA-3-8B
    Heads(16, 16, 64, torch.float32, False),
    Heads(32, 32, 128, torch.float32, True),
    Heads(32, 32, 128, torch.bfloat16, False),
    Heads(32, 8, 128, torch.float32, True),
)


def measure(machine: Machine) -> Iterator[Row]:
    """Yields times in units of SDPA and the memory beside queries and keys, for each length and kind of heads."""
    for tokens in (64, 32) if machine.tiny else LENGTHS:
        for setting in SETTINGS[:4] if machine.tiny else SETTINGS:
            yield _row(machine, setting, tokens)


def _row(machine: Machine, setting: Heads, tokens: int) -> Row:
    query, key, value = _tensors(machine, setting, tokens)
    ways, choice = dict(_ways(setting, query, key, value)), _choice(machine, setting, tokens)
    if choice is not None:  # what is beside the kernel is what entropy takes besides
        kernel = fused.KERNELS[choice.kernel]
        ways[KERNEL] = lambda: kernel(query, key, None, setting.causal, setting.width**-0.5)
    seconds = machine.in_turn(ways, rounds=5)
    peaks = {name: machine.peak(ways[name], [query, key, value]) for name in (ENTROPY, CHUNKED)}
    return {
        "tokens": tokens,
        "heads": f"{setting.heads} on {setting.key_heads} of {setting.width}",
        "sees": "the keys before" if setting.causal else "all keys",
        "dtype": str(setting.dtype).removeprefix("torch."),
        "kernel": None if choice is None else choice.kernel,
        "SDPA_seconds": statistics.median(seconds[SDPA]),
        "entropy / SDPA": ratio(seconds[ENTROPY], seconds[SDPA]),
        "kernel / SDPA": ratio(seconds[KERNEL], seconds[SDPA]) if KERNEL in seconds else None,
        "chunked / SDPA": ratio(seconds[CHUNKED], seconds[SDPA]),
        **{f"{name}_bytes": peak for name, peak in peaks.items()},
        **_errors(ways, tokens),
    }


def _tensors(machine: Machine, setting: Heads, tokens: int) -> list[Tensor]:
    """Returns query, key and value, which lie in memory as those of a model."""
    torch.manual_seed(tokens)
    options = {"device": machine.device, "dtype": setting.dtype}
    heads = (setting.heads, setting.key_heads, setting.key_heads)
    return [torch.randn(1, tokens, count, setting.width, **options).transpose(1, 2) for count in heads]


def _ways(setting: Heads, query: Tensor, key: Tensor, value: Tensor) -> Ways:
    nothing = query.new_zeros(1, 1, 1, 1)  # a bias keeps the kernel away
    grouped = setting.heads != setting.key_heads
    return {
        SDPA: lambda: F.scaled_dot_product_attention(query, key, value, is_causal=setting.causal, enable_gqa=grouped),
        ENTROPY: lambda: attention_entropy(query, key, causal=setting.causal),
        CHUNKED: lambda: attention_entropy(query, key, causal=setting.causal, bias=nothing),
    }


def _choice(machine: Machine, setting: Heads, tokens: int) -> fused.Choice | None:
    """Returns the kernel that entropy takes first, None on a CPU."""
    if not machine.cuda:
        return None
    dtype = setting.dtype if tokens >= fused.SHORT else torch.float32
    group = setting.heads // setting.key_heads
    return fused.choose_kernel(machine.device, dtype, setting.width, group, setting.causal, False)


def _errors(ways: Ways, tokens: int) -> Row:
    """Returns how far the two ways are apart: a query in nats, and the mean of a head over log n, as AE is."""
    one, other = ways[ENTROPY](), ways[CHUNKED]()
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    apart = one - other
    of_heads = apart.mean(dim=-1).abs().max() / math.log(tokens)
    return {"a query's error": float(apart.abs().max()), "AE's error": float(of_heads)}


def limits(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields that entropy takes little more than SDPA, and memory that is linear in the tokens."""
    long = [row for row in rows if row["tokens"] >= FROM]
    for dtype in ("bfloat16", "float32"):
        times = [row["entropy / SDPA"] for row in long if row["dtype"] == dtype]
        yield limit(f"entropy from {FROM} tokens on, {dtype}, in calls of SDPA", times, most=LIMIT)
        of_type = [row for row in rows if row["dtype"] == dtype]
        worst = fused.LIMITS[getattr(torch, dtype)]
        yield limit(
            f"error of a query's entropy, {dtype}, in nats", [r["a query's error"] for r in of_type], most=worst
        )
        yield limit(f"error of AE, {dtype}", [row["AE's error"] for row in of_type], most=fused.AE_LIMIT)
    growths = []
    for kind in dict.fromkeys((row["heads"], row["sees"], row["dtype"]) for row in long):
        of_kind = [row for row in long if (row["heads"], row["sees"], row["dtype"]) == kind]
        per_token = {row["tokens"]: row["entropy_bytes"] / row["tokens"] for row in of_kind}
        growths.append(per_token[max(per_token)] / per_token[min(per_token)] if len(per_token) > 1 else None)
    yield limit(f"memory of entropy for each token, the longest against {FROM} tokens", growths, most=ALIKE)
