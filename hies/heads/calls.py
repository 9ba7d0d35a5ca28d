"""What an attention module computes in one call, as handlers see it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hies.errors import UnsupportedModelError
from hies.heads.conventions import KEY_HEAD_COUNTS
from hies.heads.forwards import INTERFACE, names_reached_by
from hies.heads.pruned import PrunedHeads

HIDDEN = -5000.0  # what is added to the scores of hidden keys lies below: the smallest float, or -10000 (MarkupLM)
STEP = 50.0  # or it lies as far below what is added to all visible ones: -100 in the shifted windows of Swin


@dataclass(frozen=True)
class AttentionCall:
    """Attention whose queries and keys are known; rows is the batch size times, say, a model's windows.

    Attributes:
        module: the attention module.
        query: [rows, heads, queries, width].
        key: [rows, key heads, keys, width].
        mask: True where a query sees a key, broadcastable to [rows, heads, queries, keys], or None.
        scale: factor on the scores.
        causal: query t sees the keys 0..t; only without a mask.
        bias: as in `hies.attention_entropy`, as are the next two.
        softcap: of the scores.
        sinks: as there.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    causal: bool
    bias: Tensor | None
    softcap: float | None
    sinks: Tensor | None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.query.shape[0]

    @property
    def queries(self) -> int:
        """The number of queries."""
        return self.query.shape[2]

    @property
    def keys(self) -> int:
        """The number of keys."""
        return self.key.shape[2]

    @property
    def key_heads(self) -> int:
        """The number of key/value heads."""
        return self.key.shape[1]


@dataclass(frozen=True)
class SoftmaxCall:
    """Attention of which the softmax was seen; the other attributes are those of `AttentionCall`.

    Attributes:
        module: the attention module.
        make_scores: returns [rows, heads, queries, keys], any constant a query added.
        rows: how many there are.
        heads: query heads.
        block: what texts are filled up to multiples of, where the attention is sparse.
        windows: what the module adds to the scores of each window of an example, [windows, queries, keys].
        of_softmax: the call as its softmax was, where the module changes the weights behind it.
    """

    module: nn.Module
    make_scores: Callable[[], Tensor]
    rows: int
    heads: int
    block: int | None = None
    windows: Tensor | None = None
    of_softmax: "SoftmaxCall | None" = None
    causal = False
    sinks = None

    @cached_property
    def scores(self) -> Tensor:
        """What the softmax is taken of, minus infinity where a query does not see a key."""
        scores = self.make_scores().detach()
        hidden, windows = hidden_in(scores), self.windows
        if windows is not None and windows.shape[1:] == scores.shape[2:] and self.rows % len(windows) == 0:
            seen = visible_in(windows).repeat(self.rows // len(windows), 1, 1)  # [rows, queries, keys]
            hidden = hidden | ~seen[:, None]  # not told by the scores, which may lie apart by more (Swinv2)
        return scores.masked_fill(hidden, -torch.inf)

    @cached_property
    def mask(self) -> Tensor:
        """True where a query sees a key, [rows, heads, queries, keys]."""
        return self.scores > -torch.inf

    @property
    def queries(self) -> int:
        """The number of queries."""
        return (self.of_softmax or self).scores.shape[2]

    @property
    def keys(self) -> int:
        """The number of keys."""
        return (self.of_softmax or self).scores.shape[3]

    @property
    def key_heads(self) -> int:
        """The number of key/value heads, by what the module calls it; else each query head has its own."""
        return first_count(self.module, KEY_HEAD_COUNTS) or self.heads


Call = AttentionCall | SoftmaxCall
Handler = Callable[[str, Call, Tensor], Tensor]  # (site, call, output [rows, queries, heads, width]) -> output


def describe(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    options: Mapping[str, Any],
    is_eager: bool = False,
) -> AttentionCall:
    """Returns the call of an attention function, by its arguments as transformers names them.

    Without a mask torch's fused function may be causal by itself; eager code never is.
    """
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = causal and not is_eager
    bias = options.get("position_bias")
    visible = mask
    if mask is not None and mask.dtype != torch.bool:
        visible = visible_in(mask)
        added = mask.masked_fill(~visible, 0)
        if added.any():  # a mask that also carries a bias
            bias = added if bias is None else bias + added
    causal = bool(causal) and mask is None and query.shape[2] > 1
    scale, sinks = options.get("scaling"), options.get("s_aux")
    if options.get("sinks") is not None:  # Inkling's, of every query
        sinks = options["sinks"].squeeze(-1).detach()
    return AttentionCall(
        module=module,
        query=query.detach(),
        key=(key[:, :, : query.shape[2]] if causal else key).detach(),
        mask=visible,
        scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        causal=causal,
        bias=None if bias is None else bias.detach(),
        softcap=options.get("softcap"),
        sinks=sinks,
    )


def visible_in(added: Tensor) -> Tensor:
    """Returns True where what is added to the scores, [..., keys], hides no key; it may be a bias as well.

    A bias that grows with the distance (ALiBi) may reach as low as some masks, but by small steps.
    """
    visible = added > HIDDEN
    far = (visible & (added < added.amax(-1, keepdim=True) - STEP)).any(-1)
    if far.any():  # only such rows are sorted
        rows = added[far]  # [rows, keys]
        ordered = rows.masked_fill(~visible[far], -torch.inf).sort(-1, descending=True).values
        above = (ordered[:, :-1] - ordered[:, 1:]) > STEP
        least = ordered[:, :-1].masked_fill(~above, -torch.inf).amax(-1, keepdim=True)  # above the first such step
        visible[far] &= rows >= least
    return visible


def hidden_in(scores: Tensor) -> Tensor:
    """Returns True where a score hides a key: it is very low, or one number for several keys, far below all others.

    `masked_fill(mask, -1000)` writes such a number; scores that were computed differ from each other.
    """
    hidden = scores <= HIDDEN
    visible = scores.masked_fill(hidden, torch.inf)
    least = visible.amin() if visible.numel() else torch.inf
    is_least = visible == least
    others = visible.masked_fill(is_least, torch.inf)
    is_filled = is_least.sum() > 1 and least + STEP < others.amin() < torch.inf
    return hidden | is_least if is_filled else hidden


def with_weights(
    call: SoftmaxCall, weights: Tensor, shape: torch.Size, to_scores: Callable[[Tensor], Tensor]
) -> SoftmaxCall:
    """Returns a call whose scores are those of the weights that meet the values, where a module changes its softmax.

    Args:
        call: of the softmax.
        weights: what meets the values; rows need not sum to 1, as entropy is of shares.
        shape: of the softmax.
        to_scores: brings a tensor of this shape to [rows, heads, queries, keys].
    """

    def scores() -> Tensor:
        before, used = call.make_scores().detach(), to_scores(weights.detach().reshape(shape))
        if torch.allclose(used.float(), before.float().softmax(-1), atol=torch.finfo(used.dtype).eps, rtol=0):
            return before
        if bool((used < 0).any()):
            name = type(call.module).__name__
            raise UnsupportedModelError(f"{name} has attention weights below 0, of which entropy is not defined.")
        return torch.where(used.amax(-1, keepdim=True) > 0, used.log().to(before.dtype), before)

    return replace(call, make_scores=scores, of_softmax=call)


def key_heads_of(call: Call) -> int:
    """Returns the number of key/value heads of a site, of a pruned one those that are left."""
    pruned = PrunedHeads.of(call.module)
    if pruned:
        return len(pruned.key_heads)
    # Falcon repeats them before it attends to them
    is_own = INTERFACE not in names_reached_by(call.module)
    return (first_count(call.module, KEY_HEAD_COUNTS) if is_own else None) or call.key_heads


def first_count(module: nn.Module, names: Sequence[str]) -> int | None:
    """Returns the first attribute with one of these names that is a positive whole number; None where none is."""
    values = (getattr(module, name, None) for name in names)
    whole = (int(value) for value in values if isinstance(value, int) and not isinstance(value, bool))
    return next((value for value in whole if value > 0), None)
