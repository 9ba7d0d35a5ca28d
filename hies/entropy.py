"""Exact entropy of attention from queries and keys, without the [queries, keys] matrix wherever a kernel allows it."""

import torch
from torch import Tensor

from hies import equations
from hies.errors import HiesError

CHUNK = 256  # query rows at a time where the scores have to be written down


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
    """Entropy of softmax(scale * query @ key^T) for each query (appendix B.2.1), exact, in float32 or wider.

    On the CPU one call of the fused kernel, with the keys in the place of the values, gives the log-sum-exp and the
    mean score in memory linear in the number of tokens. Elsewhere, and with a bias, a soft cap or sinks, the scores
    are written down for a few queries at a time.

    Args:
        query: [batch, heads, queries, width].
        key: [batch, key heads, keys, width]; key heads divide heads (grouped queries).
        mask: True where a query sees a key, broadcastable to [batch, heads, queries, keys].
        scale: factor on the scores; 1 / sqrt(width) if None.
        causal: query t sees the keys 0..t; not together with `mask`.
        order: 1 for Shannon's entropy, any other positive number for Renyi's of that order.
        bias: added to the scaled scores, broadcastable to [batch, heads, queries, keys] (T5, ALiBi).
        softcap: c in s -> c tanh(s / c), applied to the scaled scores (Gemma 2).
        sinks: a further score of each head that takes part in the softmax as one more key, [heads] (GPT-OSS).

    Returns:
        Entropy in nats, [batch, heads, queries]; 0 for a query that sees no key.
    """
    _check(query, key, mask, causal, order)
    query, key = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (query, key))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    plain = bias is None and softcap is None and sinks is None
    if plain and query.device.type == "cpu":
        return _fused(query, key, mask, scale, causal, order)
    return _chunked(query, key, mask, scale, causal, order, bias, softcap, sinks)


def _check(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, order: float) -> None:
    if query.shape[0] != key.shape[0] or query.shape[1] % key.shape[1] or query.shape[-1] != key.shape[-1]:
        raise HiesError(
            f"query {tuple(query.shape)} does not go with key {tuple(key.shape)} ([batch, heads, n, width])."
        )
    if causal and mask is not None:
        raise HiesError(
            "attention_entropy takes a mask or causal=True, not both; write the causal pattern into the mask."
        )
    if not 0 < order < float("inf"):
        raise HiesError(f"order is {order}; an entropy's order is a positive, finite number (1 for Shannon's).")


def _fused(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, causal: bool, order: float) -> Tensor:
    # A constant taken from every key moves all scores of a query alike and leaves its weights as they are; taking the
    # mean key keeps log-sum-exp and mean score small, so their difference loses fewer digits.
    key = key - key.mean(dim=2, keepdim=True)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    added = None if mask is None else torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    if added is not None:
        added = added.expand(*(1,) * (4 - added.dim()), *added.shape)

    def attend(factor: float) -> tuple[Tensor, Tensor]:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(query, key, key, 0.0, causal, attn_mask=added, scale=factor)

    mean_key, log_sum_exp = attend(scale)
    if order == 1:
        return equations.entropy_from_log_sum_exp(log_sum_exp, scale * (query * mean_key).sum(dim=-1))
    return equations.renyi_entropy_from_log_sum_exp(log_sum_exp, attend(order * scale)[1], order)


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
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    if causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    rows = []
    for start in range(0, query.shape[2], CHUNK):
        here = slice(start, start + CHUNK)
        scores = scale * query[:, :, here] @ key.mT
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + _rows(bias, here)
        if mask is not None:
            scores = scores.masked_fill(~_rows(mask, here), -torch.inf)
        if sinks is not None:
            sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sink], dim=-1)
        rows.append(_entropy_of_scores(scores, order))
    return torch.cat(rows, dim=2)


def _rows(tensor: Tensor, here: slice) -> Tensor:
    """Rows `here` of [..., queries, keys], where one row may stand for all."""
    return tensor if tensor.dim() == 1 or tensor.shape[-2] == 1 else tensor[..., here, :]


def _entropy_of_scores(scores: Tensor, order: float) -> Tensor:
    seen = scores > -torch.inf
    if order == 1:
        log_weights = scores.log_softmax(dim=-1)
        return -torch.where(seen, log_weights.exp() * log_weights, 0).sum(dim=-1)
    total, powered = scores.logsumexp(dim=-1), (order * scores).logsumexp(dim=-1)
    return torch.where(seen.any(dim=-1), equations.renyi_entropy_from_log_sum_exp(total, powered, order), 0)
