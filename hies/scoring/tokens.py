"""The tokens that count: the keys that a query sees, and the queries that are no padding."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hies.heads.attention import AttentionCall
from hies.scoring.losses import IGNORED


def visible_keys(call: AttentionCall) -> Tensor:
    """Returns n_t, the number of keys that each query sees, broadcastable to [rows, heads, queries]."""
    queries, keys, device = call.query.shape[2], call.key.shape[2], call.query.device
    if call.mask is not None:
        count = call.mask.expand(*call.mask.shape[:-1], keys).sum(dim=-1)
    elif call.causal:
        count = torch.arange(1, queries + 1, device=device)
    else:
        count = torch.full((queries,), keys, device=device)
    return count + (0 if call.sinks is None else 1)


def real_queries(call: AttentionCall, batch: Mapping[str, Any]) -> Tensor | None:
    """Returns True for queries that are no padding, broadcastable to [rows, heads, queries]; None if all of them are.

    In self-attention padding is a key that no query attends to, unless (sparse attention) the batch's mask says that it
    is a token. In attention to something else (a picture) the batch's mask alone says it.
    """
    if call.mask is None and call.key.shape[2] == call.query.shape[2]:
        return None
    mask = batch.get("attention_mask")
    fits = mask is not None and mask.shape == (call.query.shape[0], call.query.shape[2])
    real = mask.bool()[:, None] if mask is not None and fits else None
    if call.mask is None or call.mask.shape[-1] != call.query.shape[2]:
        return real
    seen = call.mask.any(dim=-2)
    return seen if real is None else seen | real


def decoder_tokens(call: AttentionCall, batch: Mapping[str, Any]) -> Tensor | None:
    """Returns the same for a decoder that reads from an encoder, whose causal mask shows no padding.

    It is read off the decoder's padding mask, else the labels that it is fed, else (a classifier, fed the encoder's
    tokens) the encoder's padding mask.
    """
    size = (call.query.shape[0], call.query.shape[2])
    masks = [batch.get("decoder_attention_mask"), batch.get("labels")]
    if "decoder_input_ids" not in batch:
        masks.append(batch.get("attention_mask"))
    for mask, padding in zip(masks, (0, IGNORED, 0), strict=False):
        if isinstance(mask, Tensor) and mask.shape == size:
            return (mask != padding)[:, None]
    return None
