"""Records which heads of a dense attention module survive pruning, and maps its inputs to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hies.errors import HiesError
from hies.heads.conventions import FOR_ALL_HEADS


@dataclass(frozen=True)
class PrunedHeads:
    """The heads of the dense attention module that survive; an attribute of the pruned module.

    Attributes:
        dense_heads: query heads of the dense module.
        heads: which of them survive, ascending.
        dense_key_heads: key/value heads of the dense module.
        key_heads: which of them survive, ascending.
        groups: for every query head that survives, the position of its key/value head among `key_heads`; None where
            transformers' rule (equal groups, in order) says the same.
    """

    NAME: ClassVar[str] = "hies_pruned_heads"

    dense_heads: int
    heads: tuple[int, ...]
    dense_key_heads: int
    key_heads: tuple[int, ...]
    groups: tuple[int, ...] | None

    @classmethod
    def of(cls, module: nn.Module) -> "PrunedHeads | None":
        """Returns the record of an attention module, None for a dense one."""
        return getattr(module, cls.NAME, None)

    @property
    def removed(self) -> list[int]:
        """The query heads of the dense module that have been removed."""
        return sorted(set(range(self.dense_heads)) - set(self.heads))

    def adapt(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]]:
        """Returns the inputs of attention for the heads that survive.

        Any input may still come for all heads of the dense module; those that survive are then picked from it.

        Args:
            query: [rows, heads, queries, width].
            key: [rows, key heads, keys, width].
            value: [rows, key heads, keys, width].
            mask: or a bias, [rows, heads, queries, keys].
            options: of the attention function; `position_bias` is like the mask.
        """
        query = _pick(query, self.dense_heads, self.heads)
        key, value = (_pick(tensor, self.dense_key_heads, self.key_heads) for tensor in (key, value))
        if self.groups is not None:
            key, value = key[:, list(self.groups)], value[:, list(self.groups)]
        options = dict(options)
        if options.get("position_bias") is not None:
            options["position_bias"] = _pick(options["position_bias"], self.dense_heads, self.heads)
        return query, key, value, None if mask is None else _pick(mask, self.dense_heads, self.heads), options


class HeadCount(int):
    """A number of heads that divides the width of all heads of the dense module as their number did.

    Attributes:
        width: of one head.
        dense_width: of all heads of the dense module.
    """

    width: int
    dense_width: int

    @classmethod
    def of(cls, heads: int, width: int, dense_heads: int) -> "HeadCount":
        """Returns the number of heads that are left."""
        count = cls(heads)
        count.width, count.dense_width = width, width * dense_heads
        return count

    def __rfloordiv__(self, total: int) -> int:
        return self.width if total == self.dense_width else total // int(self)


@dataclass(frozen=True)
class PickInputs:
    """A forward pre-hook of a pruned module that computes its softmax by itself: what comes for all heads is picked.

    Attributes:
        names: of the arguments of the module's forward, in order.
    """

    names: tuple[str, ...]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the arguments for the heads that survive."""
        record = PrunedHeads.of(module)
        if record is None:
            return None
        picked = tuple(_picked(record, name, value) for name, value in zip(self.names, args, strict=False))
        return (*picked, *args[len(picked) :]), {name: _picked(record, name, one) for name, one in kwargs.items()}


def refuse_static_cache(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
    """A forward pre-hook of a pruned module whose keys all stay, under a norm over all heads, while values go.

    A static cache takes as many values as keys; the usual one grows by whatever comes.
    """
    record = PrunedHeads.of(module)
    fewer = record is not None and 0 < len(record.key_heads) < record.dense_key_heads
    if fewer and getattr(kwargs.get("past_key_values"), "is_compileable", False):
        raise HiesError(
            f"A {type(module).__name__} normalises all keys together, so that it keeps more of them than values, which "
            "a static cache cannot hold; generate with the usual one (cache_implementation=None)."
        )


def _picked(record: PrunedHeads, name: str, value: Any) -> Any:
    """Returns an argument for the heads that survive; a layer without heads runs as if it had the first."""
    heads = record.heads or (0,)
    if name not in FOR_ALL_HEADS or not isinstance(value, Tensor):
        return value
    if value.dim() == 4:  # [rows, heads, queries, keys]
        return _pick(value, record.dense_heads, heads)
    # ALiBi is [heads, 1, keys], or with rows and heads in one axis; a mask of this form is for all heads
    if value.dim() != 3 or value.shape[1] != 1 or "mask" in name or value.shape[0] % record.dense_heads:
        return value
    return _pick(value.unflatten(0, (-1, record.dense_heads)), record.dense_heads, heads).flatten(0, 1)


def _pick(tensor: Tensor, dense: int, heads: Sequence[int]) -> Tensor:
    """Returns those heads of a tensor [rows, heads, ...] that has all dense ones; any other tensor as it is."""
    return tensor[:, list(heads)] if tensor.shape[1] == dense and len(heads) < dense else tensor


def groups_of(heads: Sequence[int], key_heads: Sequence[int], of: Mapping[int, int]) -> tuple[int, ...] | None:
    """Returns the position in `key_heads` of each query head's key/value head, None where equal groups in order say so.

    Args:
        heads: query heads.
        key_heads: key/value heads.
        of: query head -> its key/value head.
    """
    places = tuple(key_heads.index(of[head]) for head in heads)
    if not places:
        return None
    size, rest = divmod(len(places), len(key_heads))
    return None if not rest and places == tuple(i // size for i in range(len(places))) else places
