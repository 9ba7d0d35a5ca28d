"""The tokens that count: the keys that a query sees, and the queries that are no padding."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hies.errors import UnsupportedModelError
from hies.heads.calls import Call, SoftmaxCall
from hies.heads.conventions import CROSS
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


def counted_queries(site: str, call: Call, batch: Mapping[str, Any], has_encoder: bool) -> Tensor | None:
    """Returns True for queries that are no padding, broadcastable to [rows, heads, queries]; None if all of them are.

    Args:
        site: whose call it is.
        call: whose queries are meant.
        batch: that passes.
        has_encoder: the model has a decoder that reads from an encoder.
    """
    if has_encoder and "decoder" in site:
        return _decoder_tokens(call, batch)
    own_names = ".".join([*site.split(".")[-2:], type(call.module).__name__]).lower()  # BERT's: crossattention.self
    return _real_queries(call, batch, any(word in own_names for word in CROSS))


def _real_queries(call: Call, batch: Mapping[str, Any], is_cross: bool) -> Tensor | None:
    """Returns the same for all but the decoder that reads from an encoder.

    In self-attention padding is a key that no query attends to, unless (sparse attention) the batch's mask says that it
    is a token. In attention to something else (a picture) the batch's mask alone says it.
    """
    mask = batch.get("attention_mask")
    if isinstance(call, SoftmaxCall) and call.block:
        mask = _in_blocks(mask if mask is not None else batch.get("input_ids"), mask is not None, call)
    if mask is not None and call.keys > call.queries and mask.shape == (call.rows, call.keys):  # the past's tokens too
        mask = mask[:, -call.queries :]
    fits = mask is not None and mask.shape == (call.rows, call.queries)
    real = mask.bool()[:, None] if mask is not None and fits else None
    if is_cross or call.keys != call.queries:
        return real
    # Keys that weights leave out behind the softmax (all but the largest ones, say) are no padding.
    visible = (call.of_softmax or call).mask if isinstance(call, SoftmaxCall) else call.mask
    if visible is None:
        return None
    if isinstance(call, SoftmaxCall) and fits:  # in XLNet padding sees itself
        visible = visible & ~torch.eye(call.queries, dtype=torch.bool, device=visible.device)
    seen = visible.any(dim=-2)
    return seen if real is None else seen | real


def _in_blocks(tokens: Any, is_mask: bool, call: SoftmaxCall) -> Tensor | None:
    """Returns which queries of sparse attention are tokens, [rows, queries]: texts are filled up to whole blocks.

    Args:
        tokens: the batch's attention mask, or another tensor [batch, tokens] if there is none.
        is_mask: it is the mask.
        call: whose queries are meant.
    """
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or call.rows % len(tokens):
        return None
    mask = tokens.bool() if is_mask else torch.ones_like(tokens, dtype=torch.bool)
    extra = call.rows // len(mask) * call.queries - mask.shape[1]
    assert call.block is not None
    if 0 <= extra < call.block:
        return functional.pad(mask, (0, extra)).view(call.rows, call.queries)
    if extra > 0 or not mask.all():  # blocks that are shifted (PEGASUS-X), or some of many (BigBird)
        raise UnsupportedModelError(
            f"{type(call.module).__name__} attends in blocks of which nothing tells the padding, so attention entropy "
            "is not known; give examples of one length a batch, a whole number of blocks, or leave entropy out."
        )
    return None


def _decoder_tokens(call: Call, batch: Mapping[str, Any]) -> Tensor | None:
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
