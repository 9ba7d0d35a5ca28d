"""Which axes of a tensor are the rows, the heads, the queries and the width, in modules that compute attention alone.

Softmax weights come as [rows, heads, queries, keys], with rows and heads in one axis, with the heads behind the
queries, or in blocks of queries. What a product makes of them is read off the product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import torch
from torch import Tensor

MATRIX_PRODUCTS = {
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm),
    *(torch.baddbmm, torch.Tensor.baddbmm),
}
PRODUCTS = {*MATRIX_PRODUCTS, torch.einsum}
MOVES = {
    *(torch.transpose, torch.swapaxes, torch.swapdims, torch.permute, torch.movedim, torch.moveaxis),
    *(torch.Tensor.transpose, torch.Tensor.swapaxes, torch.Tensor.swapdims),
    *(torch.Tensor.permute, torch.Tensor.movedim, torch.Tensor.moveaxis),
}


class UnknownLayoutError(Exception):
    """The heads of a tensor cannot be told apart; the message says of what."""


class SameLengthError(UnknownLayoutError):
    """They cannot at this length alone, which is also the number of heads."""


@dataclass(frozen=True)
class WeightLayout:
    """How softmax weights are laid out.

    Attributes:
        rows: how many there are: the batch size times, say, the number of windows.
        heads: query heads.
        blocks: queries come in so many blocks, which count among the rows, before the heads; 1: they do not.
        to_scores: brings a tensor of their shape to [rows, heads, queries, keys].
        block: what padded texts are filled up to multiples of, where the attention is sparse.
        axis: that of the heads, where another of that size may be the queries.
    """

    rows: int
    heads: int
    blocks: int
    to_scores: Callable[[Tensor], Tensor]
    block: int | None = None
    axis: int = 1


def layouts_of(shape: Sequence[int], heads: int) -> list[WeightLayout]:
    """Returns the layouts that softmax weights of this shape may have, none if they are no attention of so many heads.

    There are two where a text has as many tokens as there are heads; what is made of the weights tells which.
    """
    if len(shape) != 4:
        return [layout] if (layout := _layout_of(shape, heads)) else []
    first = WeightLayout(shape[0], heads, 1, lambda tensor: tensor)
    behind = WeightLayout(shape[0], heads, 1, lambda tensor: tensor.transpose(1, 2), shape[3], 2)  # Longformer
    fitting = [layout for layout in (first, behind) if shape[layout.axis] == heads]
    return fitting[:1] if heads == 1 else fitting  # one head of one query: both are the same


def _layout_of(shape: Sequence[int], heads: int) -> WeightLayout | None:
    if len(shape) == 3 and heads and shape[0] % heads == 0:  # [rows * heads, queries, keys]
        return WeightLayout(shape[0] // heads, heads, 1, lambda tensor: tensor.unflatten(0, (-1, heads)))
    if len(shape) == 5 and heads in shape[1:3]:
        if shape[1] == shape[2]:
            raise SameLengthError(f"as many blocks of queries as heads ({heads}); another length has other blocks")
        if shape[1] == heads:  # [rows, heads, blocks, queries, keys]
            return WeightLayout(shape[0], heads, 1, lambda tensor: tensor.flatten(2, 3), shape[3])
        return WeightLayout(shape[0] * shape[1], heads, shape[1], lambda tensor: tensor.flatten(0, 1), shape[3])
    return None


def check_order_kept(layouts: Sequence[WeightLayout], function: Any, used: Tensor, args: Any, kwargs: Any) -> None:
    """Raises SameLengthError where two layouts fit and a function moves the axis of one: sizes do not tell where to."""
    if len(layouts) < 2 or function not in MOVES:
        return
    probe = torch.empty(2, 3, 5, 7, device="meta")
    if used.dim() != 4 or args[:1] != (used,) or function(probe, *args[1:], **kwargs).shape[:2] != (2, 3):
        raise _same_length(layouts)


def keeps_order(result: Tensor, used: Tensor) -> bool:
    """Returns False where what a function made of a tensor may be a part of it, or that with its axes moved."""
    if result.shape == used.shape:
        return result.stride() == used.stride()
    return result.numel() == used.numel() and result.is_contiguous()


def place_of_layout(
    layouts: Sequence[WeightLayout], function: Any, operands: Sequence[Any], used: Tensor, result: Tensor
) -> int:
    """Returns which of several layouts softmax weights have, by a product of them: each head has values of its own.

    Args:
        layouts: that fit the shape of the softmax.
        function: one of `PRODUCTS`; the next are as in `product_output`.

    Raises:
        SameLengthError: two fit, and the values have both axes (a key for each query), or none (all heads share them).
    """
    if len(layouts) == 1:
        return 0
    of_used, of_values, of_result = _letters(function, operands, used, result)
    own = [letter in of_values and letter in of_result for letter in of_used]
    rows, heads = layouts[0].rows, layouts[0].heads
    if used.shape[0] == rows and used.dim() == 4 and own[1] != own[2]:
        return 0 if own[1] else 1
    if own[0] and used.shape[0] % (rows * heads) == 0:  # [rows * heads, queries, keys]
        return 0
    raise _same_length(layouts)


def _same_length(layouts: Sequence[WeightLayout]) -> SameLengthError:
    return SameLengthError(
        f"as many queries as heads ({layouts[0].heads}), and either may be the heads; give texts of another number of "
        "tokens than heads"
    )


def product_output(
    function: Any, operands: Sequence[Any], weights: WeightLayout, used: Tensor, result: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Returns a product of softmax weights as the output of heads, and the way back from there.

    Args:
        function: one of `PRODUCTS`.
        operands: its positional arguments.
        weights: the layout of the softmax.
        used: the operand that comes from the softmax.
        result: what the function returned.

    Returns:
        output [rows, queries, heads, width]; output -> the shape of `result`.
    """
    of_used, _, of_result = _letters(function, operands, used, result)
    rows, head, sizes = _axes(used.shape, of_used, weights)
    width = [letter for letter in of_result if letter not in of_used]
    if len(width) != 1 or any(letter not in of_result for letter in (*rows, head)):
        raise UnknownLayoutError("a product of its softmax of another kind")
    names, shape = list(of_result), list(result.shape)
    if sizes:  # rows and heads are in one axis
        place = names.index(rows[0])
        names[place : place + 1], shape[place : place + 1] = ["rows", "head", "rest"], sizes
        rows, head = ["rows"], "head"
    rest = [name for name in names if name not in (*rows, head, *width)]
    order = [names.index(name) for name in (*rows, *rest, head, *width)]
    moved = result.reshape(shape).permute(order)
    back = sorted(range(len(order)), key=order.__getitem__)
    output = moved.flatten(0, len(rows) - 1).flatten(1, -3) if rest else moved.flatten(0, len(rows) - 1).unsqueeze(1)
    return output, lambda output: output.reshape(moved.shape).permute(back).reshape(result.shape)


def has_columns_at_zero(tensor: Tensor, heads: int, columns: set[int]) -> bool:
    """Returns True where one of so many shares of the last axis is zero; [heads, width] and channels are one, too.

    These are so many columns as all heads have; queries that are as many as heads come with others.
    """
    ways = [tensor]
    if tensor.dim() > 2 and heads in tensor.shape[-2:] and tensor.shape[-2] * tensor.shape[-1] in columns:
        ways.append(tensor.flatten(-2))  # [..., heads * width]
    if tensor.dim() == 4 and tensor.shape[1] in columns:  # of a convolution
        ways.append(tensor.transpose(1, 3))
    return any(heads * int((way == 0).flatten(0, -2).all(0).sum()) >= way.shape[-1] for way in ways)


def _axes(shape: Sequence[int], letters: str, weights: WeightLayout) -> tuple[list[str], str, list[int]]:
    """Returns the axes of rows and of heads; where they are one, the sizes that it falls into."""
    rows, heads, blocks = weights.rows, weights.heads, weights.blocks
    if blocks > 1:
        if tuple(shape[:3]) == (rows // blocks, blocks, heads):
            return list(letters[:2]), letters[2], []
    elif len(shape) > 3 and weights.axis == 2 and shape[1] == shape[2] and (shape[0], shape[2]) == (rows, heads):
        return [letters[0]], letters[2], []
    elif len(shape) > 2 and tuple(shape[:2]) == (rows, heads):
        return [letters[0]], letters[1], []
    elif len(shape) > 3 and (shape[0], shape[2]) == (rows, heads):
        return [letters[0]], letters[2], []
    elif shape[0] % (rows * heads) == 0:
        return [letters[0]], letters[0], [rows, heads, shape[0] // (rows * heads)]
    raise UnknownLayoutError(f"softmax weights of the shape {tuple(shape)} for {heads} heads")


def _letters(function: Any, operands: Sequence[Any], used: Tensor, result: Tensor) -> tuple[str, str, str]:
    """Returns a letter for each axis of the weights that are used, the values, and the result.

    Axes of the values with one entry for all have none.
    """
    if function is torch.einsum:
        return _of_einsum(operands, used)
    factors = [one for one in operands if isinstance(one, Tensor)][-2:]
    if used.dim() != result.dim():
        raise UnknownLayoutError("a product of its softmax of another kind")
    lead = ascii_lowercase[: used.dim() - 2]
    if factors[0] is used:
        return f"{lead}YZ", _own(f"{lead}ZX", factors[1]), f"{lead}YX"
    return f"{lead}ZY", _own(f"{lead}XZ", factors[0]), f"{lead}XY"


def _of_einsum(operands: Sequence[Any], used: Tensor) -> tuple[str, str, str]:
    equation, *factors = operands
    if len(factors) == 1 and isinstance(factors[0], list | tuple):
        factors = list(factors[0])
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        raise UnknownLayoutError("an einsum without an arrow")
    of_factors = inputs.split(",")
    place = next(place for place, one in enumerate(factors) if one is used)
    hidden = ascii_uppercase[: used.dim() - len(of_factors[place]) + 3] if "..." in of_factors[place] else ""
    of_factors = [_spelled(one, hidden, factor) for one, factor in zip(of_factors, factors, strict=True)]
    letters, output = of_factors.pop(place), output.replace("...", hidden)
    del factors[place]
    return letters, "".join(map(_own, of_factors, factors)), output


def _spelled(letters: str, hidden: str, factor: Tensor) -> str:
    """Returns letters of an einsum with some for the dots, the last of those that the weights have there."""
    return letters.replace("...", hidden[max(len(hidden) - (factor.dim() - len(letters) + 3), 0) :])


def _own(letters: str, values: Tensor) -> str:
    sizes = reversed(values.shape)  # axes that are missing are the first
    return "".join(letter for letter, size in zip(reversed(letters), sizes, strict=False) if size > 1)
