"""Rows of tokens that branch: a token sees those between it and the root of its tree, at the distance of their depths.

Models make their masks themselves, from a function of two indices (is key t visible to query s?), and transformers asks
the registered attention for the rest. So it is enough to hand that function depths in place of indices, and to hide
other branches: sliding windows and chunks are then right as well, without a word about any architecture.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (row, head, query, key) -> visible; they broadcast


@dataclass(frozen=True)
class Branches:
    """Trees of tokens, each written into a row from its root on, one branch after the other.

    Attributes:
        depths: the position of each token in its own text, int64 [rows, keys].
        ends: the place behind the last token of the branch that each begins, int64 [rows, keys].
    """

    depths: Tensor
    ends: Tensor

    def along(self, own: MaskFunction) -> MaskFunction:
        """Returns a model's mask function, of depths in place of indices, within a branch."""

        def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            in_branch = (key <= query) & (query < self.ends[row, key])
            return in_branch & own(row, head, self.depths[row, query], self.depths[row, key])

        return visible


_branches: ContextVar[Branches | None] = ContextVar("the trees of the rows that are computed", default=None)


def branching_mask(base: Callable[..., Tensor | None], *arguments: Any, **options: Any) -> Tensor | None:
    """Returns the mask that `base` makes, of transformers' registry; inside `branching` that of the trees."""
    branches = _branches.get()
    if branches is not None:
        # Without a mask, sdpa would take each row for one text.
        options |= {"mask_function": branches.along(options["mask_function"]), "allow_is_causal_skip": False}
    return base(*arguments, **options)


@contextlib.contextmanager
def branching(branches: Branches) -> Iterator[None]:
    """Lets models that are inside `hies.heads.attention.handling` see these trees in their rows."""
    token = _branches.set(branches)
    try:
        yield
    finally:
        _branches.reset(token)


@contextlib.contextmanager
def predicting_only(head: nn.Module, places: Tensor) -> Iterator[None]:
    """Lets the last layer of a language model compute logits of these tokens alone, [1, places, vocabulary].

    Args:
        head: the output embeddings.
        places: of tokens among those of all rows, int64 [places].
    """

    def pick(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = inputs
        picked = hidden.flatten(0, 1)[places.to(hidden.device)]  # [rows, tokens, width] -> [places, width]
        return picked[None], *others

    hook = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        hook.remove()
