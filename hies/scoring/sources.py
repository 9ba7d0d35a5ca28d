"""What attention modules take their keys from: the tokens of their queries, or another place."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from hies.errors import HiesError
from hies.heads.attention import evaluating, handling, uncached
from hies.heads.calls import Call
from hies.heads.forwards import INTERFACE, arguments_of, lent, names_reached_by
from hies.heads.inputs import is_written
from hies.heads.recognition import computes_attention
from hies.scoring.examples import single_examples
from hies.scoring.losses import reads_encoder, taken_by

# In names of arguments that are no hidden states, whatever their form.
NO_STATES = ("mask", "pos", "bias", "emb", "alibi", "residual", "cos", "sin", "value", "rotary")
# What has one column a token of the text; other items of as many columns are something else's.
OF_THE_TEXT = ("input_ids", "inputs", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids", "bbox")

Sizes = dict[str, list[tuple[int, int]]]  # site -> the queries and keys of each of its calls


class Sources:
    """What the attention modules of a model were called with last."""

    def __init__(self) -> None:
        self._two: dict[nn.Module, bool] = {}
        self._cached: dict[nn.Module, bool] = {}

    def has_two(self, module: nn.Module) -> bool:
        """Returns True for a module that got other hidden states beside those of its queries."""
        return self._two.get(module, False)

    def has_cache(self, module: nn.Module) -> bool:
        """Returns True for a module that got a cache and no other hidden states."""
        return self._cached.get(module, False) and not self.has_two(module)

    @contextmanager
    def noted(self, model: nn.Module) -> Iterator[None]:
        """Notes what the attention modules of a model are called with, inside the block."""
        with ExitStack() as stack:
            for module in model.modules():
                if INTERFACE in names_reached_by(module) or computes_attention(module):
                    stack.callback(module.register_forward_pre_hook(self._note, with_kwargs=True).remove)
            yield

    @torch.compiler.disable  # its graph would hold the identities of tensors
    @torch.no_grad()
    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kind: Any = type(module)
        names = (*arguments_of(kind), *map(str, range(len(args))))
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        self._two[module] = _has_two(given)
        self._cached[module] = any(is_written(value) for value in given.values())


def _has_two(given: Mapping[str, Any]) -> bool:
    """Returns True where there are two different tensors among the arguments that may be hidden states."""
    states = [
        value
        for name, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not any(word in name for word in NO_STATES)
    ]
    first = states[0] if states else None
    return first is not None and any(
        one is not first and one.dim() == first.dim() > 1 and not (one.shape == first.shape and torch.equal(one, first))
        for one in states[1:]
    )


@torch.no_grad()
def growth_of(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, list[tuple[bool, bool]]]:
    """Returns whether queries and keys of each call of a site grow with the text: site -> one pair a call, in order.

    One example passes as it is, and with one token of padding more (or, at the limit of positions, less). What is as
    long as the text by chance does not grow with it. Nothing is returned where the model cannot read such a text.
    """
    mask = batch["attention_mask"]
    try:
        example = single_examples(batch)[int((mask == 0).any(dim=1).nonzero()[0])]
    except HiesError:  # rows that are no example's
        return {}
    names, keeps_labels = taken_by(model), reads_encoder(model)
    inputs = {name: value for name, value in example.items() if names is None or name in names}
    inputs = {name: value for name, value in inputs.items() if name != "labels" or keeps_labels}
    padding = int((example["attention_mask"][0] == 0).nonzero()[0])
    tokens = mask.shape[1]
    for columns in ([*range(tokens), padding], [one for one in range(tokens) if one != padding]):
        resized = {name: _columns(name, value, columns, tokens) for name, value in inputs.items()}
        with suppress(Exception):  # of whatever kind it is
            one, other = (_sizes(model, each) for each in (inputs, resized))
            if {site: len(of) for site, of in one.items()} == {site: len(of) for site, of in other.items()}:
                return {site: [*map(_differ, of, other[site])] for site, of in one.items()}
    return {}


def _differ(one: tuple[int, int], other: tuple[int, int]) -> tuple[bool, bool]:
    return one[0] != other[0], one[1] != other[1]


def _columns(name: str, value: Any, columns: list[int], tokens: int) -> Any:
    """Returns these columns of an item that has one a token, [1, tokens, ...]; any other as it is."""
    is_text = name in OF_THE_TEXT and isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == tokens
    return value[:, columns] if is_text else value


def _sizes(model: nn.Module, inputs: Mapping[str, Any]) -> Sizes:
    """Returns the queries and keys of all calls of a forward pass."""
    sizes: Sizes = {}
    last: dict[str, ref[Call]] = {}
    with handling(model, partial(_note_size, sizes, last)), evaluating(model), uncached(model, inputs):
        model(**lent(inputs))
    return sizes


def _note_size(sizes: Sizes, last: dict[str, "ref[Call]"], site: str, call: Call, output: Tensor) -> Tensor:
    if site not in last or last[site]() is not call:  # weights in parts have several products
        sizes.setdefault(site, []).append((call.queries, call.keys))
    last[site] = ref(call)
    return output
