"""Attention entropy against one call of SDPA and against eager softmax: `python -m benchmarks.entropy`.

Random queries and keys, batch 1. First MiniLM's heads over the number of tokens, then other heads, masks and entropies
at one length. The ways are timed in turn, round after round, and each ratio is taken within its round.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from benchmarks.peaks import extra_bytes
from benchmarks.rounds import Ways, conditions, in_turn, ratio
from hies import attention_entropy, equations

EAGER_UP_TO = 4096  # tokens: 1.6 GB for MiniLM's heads
SDPA, ENTROPY, EAGER = "SDPA", "entropy", "eager"


@dataclass(frozen=True)
class Setting:
    """Heads, their width, and what each query sees."""

    heads: int = 12
    key_heads: int = 12
    width: int = 32
    visible: Callable[[int], Tensor] | None = None  # tokens -> mask
    causal: bool = False
    order: float = 1.0


def _padded(tokens: int) -> Tensor:
    """As models pass it: the same row for every query."""
    return (torch.arange(tokens) < 3 * tokens // 4).expand(1, 1, tokens, tokens).contiguous()


def _window(tokens: int) -> Tensor:
    """Causal, an eighth of the tokens."""
    return torch.ones(tokens, tokens, dtype=torch.bool).tril().triu(-tokens // 8)[None, None]


MINILM = Setting()
OTHERS = {
    "MiniLM: 12 heads of 32": MINILM,
    "BERT: 12 heads of 64": Setting(width=64),
    "8 heads of 128, causal": Setting(8, 8, 128, causal=True),
    "8 heads of 128 on 2 key heads, causal": Setting(8, 2, 128, causal=True),
    "MiniLM, a quarter padding": Setting(visible=_padded),
    "MiniLM, sliding window": Setting(visible=_window),
    "MiniLM, Renyi of order 2 (Gini)": Setting(order=2.0),
    "MiniLM, Renyi of order 0.5": Setting(order=0.5),
    "MiniLM, min": Setting(order=math.inf),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    options = _options(arguments)
    rows = [_by_length(tokens, options.rounds) for tokens in tqdm(options.tokens, unit="length")]
    print(f"MiniLM's heads by length, {conditions()}, medians over rounds; memory beside queries and keys")
    headers = ["tokens", "SDPA (ms)", "entropy / SDPA", "eager / entropy", "entropy (MB)", "eager (MB)", "share (%)"]
    print(tabulate(rows, headers=headers, floatfmt=("d", ".1f", ".2f", ".1f", ".1f", ".0f", ".1f"), missingval="-"))
    rows = [[name, *_times(setting, options.at, options.rounds)] for name, setting in tqdm(OTHERS.items(), unit="row")]
    print(f"At {options.at} tokens, {conditions()}")
    headers = [" ", "SDPA (ms)", "entropy / SDPA", "chunked / SDPA", "eager / entropy"]
    print(tabulate(rows, headers=headers, floatfmt=(" ", ".1f", ".2f", ".2f", ".1f"), missingval="-"))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = (__doc__ or "").split(":")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.entropy", description=about)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--at", type=int, default=2048, help="tokens of the second table")
    parser.add_argument("--rounds", type=int, default=5, help="of all ways in turn; more where they are short")
    return parser.parse_args(arguments)


def _by_length(tokens: int, rounds: int) -> list[float | None]:
    milliseconds, of_sdpa, _, eager = _times(MINILM, tokens, max(rounds, 3 * 2048 // tokens))
    fused, whole = extra_bytes(_measured, ENTROPY, tokens), eager_bytes(tokens)
    if tokens <= EAGER_UP_TO:
        whole = extra_bytes(_measured, EAGER, tokens)
    return [tokens, milliseconds, of_sdpa, eager, fused / 1e6, whole / 1e6, 100 * fused / whole]


def eager_bytes(tokens: int) -> int:
    """Scores and weights, then weights and their entropy, of MiniLM's heads in float32: two matrices at a time."""
    return 2 * MINILM.heads * tokens**2 * 4


def _times(setting: Setting, tokens: int, rounds: int) -> list[float | None]:
    """Milliseconds of SDPA; entropy and the chunked path in the same unit; eager in units of entropy."""
    ways = dict(_ways(setting, tokens))
    if tokens > EAGER_UP_TO:
        del ways[EAGER]
    seconds = in_turn(ways, rounds)
    eager = ratio(seconds[EAGER], seconds[ENTROPY]) if EAGER in ways else None
    of_sdpa = [ratio(seconds[name], seconds[SDPA]) for name in (ENTROPY, "chunked")]
    return [1e3 * statistics.median(seconds[SDPA]), *of_sdpa, eager]


def _measured(way: str, tokens: int) -> Callable[[], object]:
    return _ways(MINILM, tokens)[way]


def _ways(setting: Setting, tokens: int) -> Ways:
    torch.manual_seed(0)
    query = torch.randn(1, setting.heads, tokens, setting.width)
    key, value = torch.randn(2, 1, setting.key_heads, tokens, setting.width)
    mask = None if setting.visible is None else setting.visible(tokens)
    seen = {"causal": setting.causal, "order": setting.order}
    chunked = {"bias": torch.zeros(1, 1, 1, 1)}  # keeps the fused kernel away
    grouped = setting.heads != setting.key_heads
    return {
        SDPA: lambda: F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=setting.causal, enable_gqa=grouped
        ),
        ENTROPY: lambda: attention_entropy(query, key, mask, **seen),
        "chunked": lambda: attention_entropy(query, key, mask, **seen, **chunked),
        EAGER: lambda: eager_entropy(query, key, mask, **seen),
    }


def eager_entropy(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, order: float) -> Tensor:
    """The entropy of weights that are all written down."""
    scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).mT
    scores *= query.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    del scores
    if order == 1:
        return equations.token_entropy(weights)
    if order == math.inf:
        return -weights.amax(dim=-1).log()
    return weights.pow_(order).sum(dim=-1).log() / (1 - order)


if __name__ == "__main__":
    main()
