"""The tokens that count: the keys that a query sees, and the queries that are no padding."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hies.heads.calls import Call, SoftmaxCall
from hies.scoring.losses import IGNORED


def visible_keys(call: Call) -> Tensor:
    """Returns n_t, the number of keys that each query sees, broadcastable to [rows, heads, queries]."""
    if call.mask is not None:
        count = call.mask.expand(*call.mask.shape[:-1], call.keys).sum(dim=-1)
    elif call.causal:
        count = torch.arange(1, call.queries + 1, device=call.query.device)
    else:
        count = torch.full((call.queries,), call.keys, device=call.query.device)
    return count + (0 if call.sinks is None else 1)


def real_queries(call: Call, batch: Mapping[str, Any]) -> Tensor | None:
    """Returns True for queries that are no padding, broadcastable to [rows, heads, queries]; None if all of them are.

    In self-attention padding is a key that no query attends to, unless (sparse attention) the batch's mask says that it
    is a token. In attention to something else (a picture) the batch's mask alone says it.
    """
    if call.mask is None:
        return None
    mask = batch.get("attention_mask")
    if isinstance(call, SoftmaxCall) and is_windowed(call, mask):  # Longformer adds padding up to whole windows
        mask = functional.pad(mask, (0, max(0, call.queries - mask.shape[1])))
    fits = mask is not None and mask.shape == (call.rows, call.queries)
    real = mask.bool()[:, None] if mask is not None and fits else None
    if call.mask.shape[-1] != call.queries:
        return real
    visible = call.mask
    if isinstance(call, SoftmaxCall) and fits:  # in XLNet padding sees itself
        visible = visible & ~torch.eye(call.queries, dtype=torch.bool, device=visible.device)
    seen = visible.any(dim=-2)
    return seen if real is None else seen | real


def is_windowed(call: SoftmaxCall, mask: Tensor | None) -> bool:
    """Returns True where the queries that `mask` [batch, tokens] is of see fewer keys than there are tokens."""
    return mask is not None and mask.dim() == 2 and len(mask) == call.rows and call.keys < mask.shape[1]


def decoder_tokens(call: Call, batch: Mapping[str, Any]) -> Tensor | None:
    """Returns the same for a decoder that reads from an encoder, whose causal mask shows no padding.

    It is read off the decoder's padding mask, else the labels that it is fed, else (a classifier, fed the encoder's
    tokens) the encoder's padding mask.
    """
    size = (call.rows, call.queries)
    masks = [batch.get("decoder_attention_mask"), batch.get("labels")]
    if "decoder_input_ids" not in batch:
        masks.append(batch.get("attention_mask"))
    for mask, padding in zip(masks, (0, IGNORED, 0), strict=False):
        if isinstance(mask, Tensor) and mask.shape == size:
            return (mask != padding)[:, None]
    return None
