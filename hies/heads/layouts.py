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


class UnknownLayoutError(Exception):
    """The heads of a tensor cannot be told apart; the message says of what."""


@dataclass(frozen=True)
class WeightLayout:
    """How softmax weights are laid out.

    Attributes:
        rows: how many there are: the batch size times, say, the number of windows.
        heads: query heads.
        blocks: queries come in so many blocks, which count among the rows, before the heads; 1: they do not.
        to_scores: brings a tensor of their shape to [rows, heads, queries, keys].
        block: what padded texts are filled up to multiples of, where the attention is sparse.
    """

    rows: int
    heads: int
    blocks: int
    to_scores: Callable[[Tensor], Tensor]
    block: int | None = None


def layout_of(shape: Sequence[int], heads: int) -> WeightLayout | None:
    """Returns the layout of softmax weights of this shape, None where they are no attention of so many heads."""
    if len(shape) == 3 and heads and shape[0] % heads == 0:  # [rows * heads, queries, keys]
        return WeightLayout(shape[0] // heads, heads, 1, lambda tensor: tensor.unflatten(0, (-1, heads)))
    if len(shape) == 4 and shape[1] == heads:
        return WeightLayout(shape[0], heads, 1, lambda tensor: tensor)
    if len(shape) == 4 and shape[2] == heads:  # Longformer
        return WeightLayout(shape[0], heads, 1, lambda tensor: tensor.transpose(1, 2), shape[3])
    if len(shape) == 5 and heads in shape[1:3]:
        if shape[1] == shape[2]:
            raise UnknownLayoutError(f"as many blocks of queries as heads ({heads}); another length has other blocks")
        if shape[1] == heads:  # [rows, heads, blocks, queries, keys]
            return WeightLayout(shape[0], heads, 1, lambda tensor: tensor.flatten(2, 3), shape[3])
        return WeightLayout(shape[0] * shape[1], heads, shape[1], lambda tensor: tensor.flatten(0, 1), shape[3])
    return None


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
    of_used, of_result = _letters(function, operands, used, result)
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


def _axes(shape: Sequence[int], letters: str, weights: WeightLayout) -> tuple[list[str], str, list[int]]:
    """Returns the axes of rows and of heads; where they are one, the sizes that it falls into."""
    rows, heads, blocks = weights.rows, weights.heads, weights.blocks
    if blocks > 1:
        if tuple(shape[:3]) == (rows // blocks, blocks, heads):
            return list(letters[:2]), letters[2], []
    elif len(shape) > 2 and tuple(shape[:2]) == (rows, heads):
        return [letters[0]], letters[1], []
    elif len(shape) > 3 and (shape[0], shape[2]) == (rows, heads):
        return [letters[0]], letters[2], []
    elif shape[0] % (rows * heads) == 0:
        return [letters[0]], letters[0], [rows, heads, shape[0] // (rows * heads)]
    raise UnknownLayoutError(f"softmax weights of the shape {tuple(shape)} for {heads} heads")


def _letters(function: Any, operands: Sequence[Any], used: Tensor, result: Tensor) -> tuple[str, str]:
    """Returns a letter for each axis of the weights that are used, and of the result."""
    if function is torch.einsum:
        return _of_einsum(operands, used)
    factors = [one for one in operands if isinstance(one, Tensor)][-2:]
    if used.dim() != result.dim():
        raise UnknownLayoutError("a product of its softmax of another kind")
    lead = ascii_lowercase[: used.dim() - 2]
    return (f"{lead}YZ", f"{lead}YX") if factors[0] is used else (f"{lead}ZY", f"{lead}XY")


def _of_einsum(operands: Sequence[Any], used: Tensor) -> tuple[str, str]:
    equation, *factors = operands
    if len(factors) == 1 and isinstance(factors[0], list | tuple):
        factors = list(factors[0])
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        raise UnknownLayoutError("an einsum without an arrow")
    letters = inputs.split(",")[next(place for place, one in enumerate(factors) if one is used)]
    if "..." in letters:
        hidden = ascii_uppercase[: used.dim() - len(letters) + 3]
        letters, output = letters.replace("...", hidden), output.replace("...", hidden)
    return letters, output
