"""Whose rows a site sees, where a model reads pictures or sound beside tokens.

Pictures, tiles, crops and chunks of sound come in rows of their own, and nothing in a batch says which example they
belong to: as many for each, or several for one and none for another. The model itself shows it, example by example.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hies.errors import HiesError, first_line
from hies.heads.attention import evaluating, handling
from hies.heads.calls import Call
from hies.scoring.examples import examples_in, single_examples
from hies.scoring.losses import Loss, inputs_of

WRITTEN = {"input_ids", "inputs_embeds", "decoder_input_ids"}  # tokens


@torch.no_grad()
def parts_of(model: nn.Module, batch: Mapping[str, Any], loss: Loss) -> list[Mapping[str, Any]]:
    """Returns a batch in parts of which every site sees equally many rows of each example: itself, or its examples.

    A batch of several examples with numbers (pictures, sound) beside tokens costs two forward passes: of its examples,
    each with an equal share of every item, and of the batch, which must compute the same.

    Raises:
        HiesError: the examples compute something else than the batch, so the shares are not theirs; or have no token.
    """
    size, inputs = examples_in(batch), inputs_of(model, batch, loss)
    for name in WRITTEN & inputs.keys():
        if isinstance(inputs[name], Tensor) and len(inputs[name]) and not inputs[name].numel():
            shape = tuple(inputs[name].shape)
            raise HiesError(
                f"A calibration batch has {name!r} of the shape {shape}; an example needs a token at least."
            )
    if size == 1 or not _has_several_kinds(inputs):
        return [batch]
    try:
        examples: list[Mapping[str, Any]] = [*single_examples(batch)]
        alone = [_Rows(model, inputs_of(model, example, loss)) for example in examples]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does that finds more pictures than places for them
        raise _uneven(first_line(error)) from error
    whole = _Rows(model, inputs)
    if not whole.is_joined_from(alone):
        raise _uneven("alone they compute something else")
    first = [(site, rows * len(examples)) for site, rows in alone[0].calls]
    return [batch] if whole.calls == first and all(one.calls == alone[0].calls for one in alone) else examples


def rows_per_example(tensor: Tensor, examples: int, site: str) -> int:
    """Returns the rows of a tensor that belong to each example; rows that are not evenly theirs are refused."""
    if len(tensor) % examples:
        several = f"Site {site!r} saw {len(tensor)} rows for {examples} examples"
        raise HiesError(f"{several}, which cannot be told apart; give each example a batch of its own.")
    return len(tensor) // examples


def _has_several_kinds(inputs: Mapping[str, Any]) -> bool:
    """Returns True for fractions (pictures, sound) beside tokens or whole numbers, masks and labels left out."""
    items = {name: value for name, value in inputs.items() if name != "labels" and "mask" not in name}
    leaves = [
        (name, leaf)
        for name, value in items.items()
        if isinstance(value, Tensor | list | tuple)
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor) and leaf.dim()
    ]
    kinds = {"token" if name in WRITTEN else leaf.is_floating_point() for name, leaf in leaves}
    return True in kinds and len(kinds) > 1


def _uneven(reason: str) -> HiesError:
    rows = f"The rows of a batch are not evenly those of its examples ({reason})"
    return HiesError(f"{rows}; give each example a batch of its own.")


class _Rows:
    """What attention sees in a forward pass.

    Attributes:
        calls: (site, rows) of every call, in order.
        last: what the last call gave, [rows, tokens, heads, width].
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        self.calls: list[tuple[str, int]] = []
        self.last: Tensor | None = None
        with handling(model, self._note), evaluating(model):
            model(**inputs)

    def _note(self, site: str, call: Call, output: Tensor) -> Tensor:
        self.calls.append((site, len(output)))
        self.last = output
        return output

    def is_joined_from(self, alone: list["_Rows"]) -> bool:
        """Returns True if the last call, which saw the pictures, gave what it gives for the examples alone."""
        outputs = [one.last for one in alone if one.last is not None and one.calls[-1][0] == self.calls[-1][0]]
        if self.last is None or len({output.shape[1:] for output in outputs}) != 1:
            return self.last is None
        joined = torch.cat(outputs)
        # In batches of another size the same numbers differ by rounding; another picture changes half of the digits.
        tolerance = max(torch.finfo(joined.dtype).eps, 1e-6) ** 0.5
        largest = float(joined.abs().max())
        return joined.shape == self.last.shape and torch.allclose(
            self.last, joined, rtol=0, atol=tolerance * largest, equal_nan=True
        )
