"""How many tokens a model has positions for, checked before a text of more of them reaches it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from hies.errors import ParameterError


def check_positions(network: Any, max_length: int, longest: Callable[[], int]) -> None:
    """Raises ParameterError where a text is longer than the model's table of positions.

    Args:
        network: a model of transformers.
        max_length: tokens at which texts are cut.
        longest: returns the tokens of the longest text that is cut so; only called where it may be too long.
    """
    positions = positions_of(network)
    if positions is not None and max_length > positions and (tokens := longest()) > positions:
        expected = (
            f"the model has {positions} positions and the longest text {tokens} tokens, so give at most {positions}"
        )
        raise ParameterError("max_length", max_length, expected)


def positions_of(network: Any) -> int | None:
    """Returns for how many tokens a model has learned positions; None where it computes them, for any number."""
    declared = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if not declared:
        return None
    tables = [
        module
        for module in network.modules()
        if isinstance(module, nn.Embedding)
        and module is not network.get_input_embeddings()
        and declared <= module.num_embeddings <= declared + 2
    ]
    return min((table.num_embeddings - _unused(table) for table in tables), default=None)


def _unused(table: nn.Embedding) -> int:
    """Rows before that of the first token: BART and its kin count from an offset, RoBERTa from behind the padding."""
    return getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
