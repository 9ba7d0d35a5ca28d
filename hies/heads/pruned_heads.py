"""What is left of an attention module after pruning, and how its inputs are brought to the heads that are left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """The heads of the dense attention module that are still there; an attribute of the pruned module.

    of, heads: how many query heads there were, and which of them are left, ascending. key_of, key_heads: the same of
    key/value heads. groups: for every query head left, the position of its key/value head among `key_heads`; None where
    transformers' rule (equal groups, in order) says the same.
    """

    NAME: ClassVar[str] = "hies_kept"

    of: int
    heads: tuple[int, ...]
    key_of: int
    key_heads: tuple[int, ...]
    groups: tuple[int, ...] | None

    @property
    def removed(self) -> list[int]:
        """The query heads of the dense module that are gone."""
        return sorted(set(range(self.of)) - set(self.heads))

    def adapt(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]]:
        """The inputs of attention, for the heads that are left.

        query [rows, heads, queries, width], key and value [rows, key heads, keys, width] and a mask or bias
        [rows, heads, queries, keys] may still come for all heads of the dense module; where they do, a few are picked.
        """
        query = _picked(query, self.of, self.heads)
        key, value = (_picked(tensor, self.key_of, self.key_heads) for tensor in (key, value))
        if self.groups is not None:
            key, value = key[:, list(self.groups)], value[:, list(self.groups)]
        options = dict(options)
        if options.get("position_bias") is not None:
            options["position_bias"] = _picked(options["position_bias"], self.of, self.heads)
        return query, key, value, None if mask is None else _picked(mask, self.of, self.heads), options


def _picked(tensor: Tensor, of: int, heads: Sequence[int]) -> Tensor:
    """Those heads of a tensor [rows, heads, ...] that has all of them; any other tensor as it is."""
    return tensor[:, list(heads)] if tensor.shape[1] == of and len(heads) < of else tensor


def groups_of(heads: Sequence[int], key_heads: Sequence[int], of: Mapping[int, int]) -> tuple[int, ...] | None:
    """The position in `key_heads` of each query head's key/value head, or None where equal groups in order say so."""
    found = tuple(key_heads.index(of[head]) for head in heads)
    if not found:
        return None
    size, left = divmod(len(found), len(key_heads))
    return None if not left and found == tuple(i // size for i in range(len(found))) else found
