"""Exact entropy of attention from queries and keys, without the [queries, keys] matrix wherever a kernel allows it."""

import math
from collections.abc import Iterator
from itertools import product
from numbers import Real

import torch
from torch import Tensor

from hies import equations
from hies.errors import HiesError, ParameterError
from hies.heads.calls import Call, SoftmaxCall
from hies.scoring import fused

TOLERANCE = 1e-4  # nats that rounding may cost
KERNEL_ROUNDING = 4  # units in the last place of the log-sum-exp that the fused path may lose; 2 to 3 were seen
CHUNK = 1 << 21  # scores written down at a time: 8 MB stay in a cache
LOG2_E = 1 / math.log(2)
NEAR = 0.1  # orders that are as near to 1 as this have a formula of their own
ROWS = 64  # queries at a time, at the least: matrix products of fewer rows are slow
WIDE, FEW = 64, 2  # heads as wide as this, on as few threads as that: chunks take 25 to 40 % less time


@torch.no_grad()  # the kernel's log-sum-exp has no derivative: a gradient would be wrong, and say nothing
@fused.exact_products()
def attention_entropy(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    order: float = 1.0,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Returns the entropy of softmax(scale * query @ key^T) for each query (appendix B.2.1), exact, at least float32.

    One call of a fused kernel, with the keys in the place of the values, gives the log-sum-exp and the mean score. For
    Renyi's entropies, with a bias, a soft cap or sinks, where scores are so large that rounding could cost the kernel
    more than 1e-4 nats, for wide heads on few threads of the CPU, and where no kernel of a GPU passes its trial
    (`hies.scoring.fused`), the scores are written down for a few queries at a time. Either way takes memory linear in
    the number of tokens, and no gradient flows.

    Queries and keys in 16 bits are computed with in float32 on the CPU. On CUDA a kernel takes 512 queries and more as
    they are where that costs one at most 0.1 nats; their mean is within 1e-3 log n of float32's.

    Args:
        query: [batch, heads, queries, width].
        key: [batch, key heads, keys, width]; key heads divide heads (grouped queries).
        mask: True where a query sees a key, broadcastable to [batch, heads, queries, keys].
        scale: factor on the scores; 1 / sqrt(width) if None.
        causal: query t sees the keys 0..t; not together with `mask`.
        order: 1 for Shannon's entropy, another positive number or infinity for Renyi's of that order.
        bias: added to the scaled scores, broadcastable to [batch, heads, queries, keys] (T5, ALiBi).
        softcap: c in s -> c tanh(s / c), applied to the scaled scores (Gemma 2).
        sinks: a further score that takes part in the softmax as one more key, [heads] (GPT-OSS) or of each query,
            broadcastable to [batch, heads, queries].

    Returns:
        Entropy in nats, [batch, heads, queries]; 0 for a query that sees no key, and for heads of no width.
    """
    _check_tensors(query=query, key=key, mask=mask, bias=bias, sinks=sinks)
    _check(query, key, mask, causal, order)
    common = torch.promote_types(query.dtype, key.dtype)  # they differ where autocast would make them one
    query, key = query.to(common), key.to(common)
    scores = (*query.shape[:3], key.shape[2])  # [batch, heads, queries, keys]
    of_heads = sinks is not None and sinks.dim() == 1
    _check_shapes(mask=(mask, scores), bias=(bias, scores), sinks=(sinks, scores[1:2] if of_heads else scores[:3]))
    sinks = sinks[:, None] if sinks is not None and of_heads else sinks
    if not query.numel() or not key.numel():  # kernels divide by sizes
        return query.new_zeros(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # Kernels read a head's numbers as if they lay side by side.
    query, key = (one if one.stride(-1) == 1 else one.contiguous() for one in (query, key))
    mask, bias = (None if tensor is None else tensor[(None,) * (4 - tensor.dim())] for tensor in (mask, bias))
    plain = bias is None and softcap is None and sinks is None and order == 1
    if plain and (entropy := fused.kernel_entropy(query, key, mask, scale, causal)) is not None:
        return entropy
    query, key = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (query, key))
    if softcap is None and sinks is None:
        # A constant taken from every key moves all scores of a query alike and leaves its weights as they are; without
        # their mean, keys give small scores, whose differences lose fewer digits.
        key = key - key.mean(dim=2, keepdim=True)
    # The kernel multiplies with the keys twice where chunks do so once, but it is better at using many threads.
    suits = query.device.type == "cpu" and (query.shape[-1] < WIDE or torch.get_num_threads() > FEW)
    if plain and suits:
        entropy, rounding = _fused(query, key, mask, scale, causal)
        if rounding <= TOLERANCE:
            return entropy
    return _chunked(query, key, mask, scale, causal, order, bias, softcap, sinks)


@torch.no_grad()
def entropy_of_call(call: Call, order: float) -> Tensor:
    """Returns the same of an attention call, nats [rows, heads, queries]; where its softmax was seen, from its scores.

    Args:
        call: what an attention module computes.
        order: as in `attention_entropy`.
    """
    if isinstance(call, SoftmaxCall):
        return _entropy_of_scores(
            call.scores.to(torch.promote_types(call.scores.dtype, torch.float32), copy=True), order
        )
    return attention_entropy(
        call.query, call.key, call.mask, call.scale, call.causal, order,
        bias=call.bias, softcap=call.softcap, sinks=call.sinks,
    )  # fmt: skip


def _check(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, order: float) -> None:
    fits = query.dim() == key.dim() == 4 and query.shape[0] == key.shape[0] and query.shape[-1] == key.shape[-1]
    if not fits or (query.shape[1] % key.shape[1] if key.shape[1] else query.shape[1]):
        raise HiesError(
            f"query {tuple(query.shape)} does not go with key {tuple(key.shape)} ([batch, heads, n, width])."
        )
    if causal and mask is not None:
        raise ParameterError("causal", causal, "with a mask it must be False; write the causal pattern into the mask")
    if isinstance(order, bool) or not isinstance(order, Real) or not order > 0:
        raise ParameterError("order", order, "an entropy's order is a positive number (1 for Shannon's)")


def _check_tensors(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        optional = tensor is None and name not in ("query", "key")
        if not optional and not isinstance(tensor, Tensor):
            raise ParameterError(name, tensor, "give a torch tensor")
        if name == "mask" and tensor is not None and tensor.dtype != torch.bool:
            raise ParameterError("the dtype of mask", tensor.dtype, "give True where a query sees a key")


def _check_shapes(**tensors: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Raises ParameterError for a tensor that does not broadcast to the shape beside it."""
    for name, (tensor, shape) in tensors.items():
        if tensor is not None:
            sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
            if tensor.dim() > len(shape) or any(size not in (1, full) for size, full in sizes):
                raise ParameterError(f"the shape of {name}", tuple(tensor.shape), f"it must broadcast to {shape}")


def _fused(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, causal: bool) -> tuple[Tensor, float]:
    """Returns Shannon's entropy of each query, and the nats that rounding may have cost."""
    key = _per_head(key, query.shape[1])
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    entropies, largest = [], 0.0
    for rows in _rows(query.shape[2], 0 if mask is None else len(mask) * mask.shape[1] * key.shape[2]):
        some = query[:, :, rows]
        added = None if mask is None else _added(_part(mask, slice(None), rows), query.dtype)
        mean_key, log_sum_exp = kernel(some, key, key, 0.0, causal, attn_mask=added, scale=scale)
        mean_score = scale * (some * mean_key).sum(dim=-1)
        entropies.append(equations.entropy_from_log_sum_exp(log_sum_exp, mean_score))
        largest = max(largest, float(log_sum_exp.abs().max()))
    return torch.cat(entropies, dim=2), KERNEL_ROUNDING * torch.finfo(query.dtype).eps * largest


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns what is added to the scores in the place of the mask: 0, or minus infinity where it hides a key."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)


def _chunked(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scale: float,
    causal: bool,
    order: float,
    bias: Tensor | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    batch, heads, queries, _ = query.shape
    key = _per_head(key, heads)
    entropies = query.new_empty(batch, heads, queries)
    at_once = max(1, CHUNK // (heads * queries * key.shape[2]))
    for examples, rows in product(_slices(batch, at_once), _rows(queries, at_once * heads * key.shape[2])):
        keys = slice(rows.stop if causal else None)
        scores = scale * query[examples, :, rows] @ key[examples, :, keys].mT
        if softcap is not None:
            scores.div_(softcap).tanh_().mul_(softcap)
        if bias is not None:
            scores += _part(bias, examples, rows)[..., keys]
        if causal:
            scores += _added(scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril(rows.start), scores.dtype)
        if mask is not None:
            scores += _added(_part(mask, examples, rows), scores.dtype)
        if sinks is not None:
            sink = _part(sinks[(None,) * (3 - sinks.dim())].unsqueeze(-1), examples, rows)  # [..., one key]
            scores = torch.cat([scores, sink.to(scores.dtype).expand(*scores.shape[:3], 1)], dim=-1)
        entropies[examples, :, rows] = _entropy_of_scores(scores, order)
    return entropies


def _per_head(key: Tensor, heads: int) -> Tensor:
    """[batch, key heads, keys, width] -> [batch, heads, keys, width], without a copy if each head has its own keys."""
    return key.unsqueeze(2).expand(-1, -1, heads // key.shape[1], -1, -1).flatten(1, 2)


def _rows(queries: int, scores_per_query: int) -> Iterator[slice]:
    """Returns slices of the queries that have few enough scores each."""
    return _slices(queries, max(ROWS, CHUNK // scores_per_query) if scores_per_query else queries)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _part(tensor: Tensor, examples: slice, rows: slice) -> Tensor:
    """Returns some examples and queries of a tensor that broadcasts to [batch, heads, queries, keys]."""
    everything = slice(None)
    return tensor[examples if len(tensor) > 1 else everything, :, rows if tensor.shape[2] > 1 else everything]


def _entropy_of_scores(scores: Tensor, order: float) -> Tensor:
    """Returns the entropy of softmax(scores), [..., keys] -> [...]; the scores are overwritten."""
    lowest = torch.finfo(scores.dtype).min
    largest = scores.amax(dim=-1, keepdim=True)
    # Scores below the largest one are small where they have weight, so that differences keep their digits; the finite
    # lowest score stands for minus infinity, whose product with a weight of zero is no number.
    scores.sub_(largest.clamp(min=lowest)).clamp_(min=lowest)
    weights = _exp(scores)
    total = weights.sum(dim=-1)
    if order == 1:
        entropy = equations.entropy_from_log_sum_exp(total.log(), weights.mul_(scores).sum(dim=-1) / total)
    elif order == float("inf"):
        entropy = equations.entropy_from_log_sum_exp(total.log(), torch.zeros_like(total))  # the largest score is 0
    elif abs(order - 1) < NEAR:
        entropy = equations.renyi_entropy_near_shannon(scores.sub_(total.log().unsqueeze(-1)), order)
    else:
        entropy = equations.renyi_entropy_from_log_sum_exp(total.log(), _exp(order * scores).sum(-1).log(), order)
    return entropy.masked_fill(largest.squeeze(-1) == -torch.inf, 0)


def _exp(scores: Tensor) -> Tensor:
    # torch's exp on the CPU takes ten times as long where it underflows, as it does for hidden keys; exp2 does not.
    return (scores * LOG2_E).exp2_()
