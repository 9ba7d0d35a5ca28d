"""The tokens that count: the keys that a query sees, and the queries that are no padding."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, PreTrainedModel

from hies.errors import HiesError, UnsupportedModelError
from hies.heads.calls import Call, SoftmaxCall
from hies.heads.conventions import CROSS
from hies.heads.sites import is_in
from hies.scoring.losses import IGNORED, Loss, is_of_transformers
from hies.scoring.own_loss import answer
from hies.scoring.sources import Sources, growth_of


def visible_keys(call: Call) -> Tensor:
    """Returns n_t, the number of keys that each query sees, broadcastable to [rows, heads, queries]."""
    if call.mask is not None:
        count = call.mask.expand(*call.mask.shape[:-1], call.keys).sum(dim=-1)
    elif call.causal:
        count = torch.arange(1, call.queries + 1, device=call.query.device)
    else:
        count = torch.full((call.queries,), call.keys, device=call.query.device)
    return count + (0 if call.sinks is None else 1)


class _NotKnownError(HiesError):
    """A call needs to know whose tokens its queries are, and the pass has to be repeated when that is known."""


class CountedQueries:
    """Tells which queries of a model's attention calls are no padding.

    Attributes:
        model: whose calls they are.
        is_learning: the model runs to show which queries are the text's, and handlers leave that alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.is_learning = model, False
        self._inside = _names_of_encoder_decoders(model)
        self._sources = Sources()
        # Site -> of each of its calls, whether the queries and the keys grow with the text; None: not looked at yet.
        self._growth: dict[str, list[tuple[bool, bool]]] | None = None
        self._has_warned = False
        self._start({})

    @contextmanager
    def run(self) -> Iterator[None]:
        """Looks at what attention modules are called with, inside the block."""
        with self._sources.noted(self.model):
            yield

    def answered(self, batch: Mapping[str, Any], loss: Loss, start: Callable[[], None]) -> Any:
        """Returns what the model answers to a batch; it passes once more where that is needed.

        Args:
            batch: see `hies.scoring.own_loss.answer`, as of loss.
            loss: that is computed of it.
            start: prepares the handler of a pass, which asks `of` for each call.
        """
        self._start(batch)
        try:
            start()
            return answer(self.model, batch, loss)
        except _NotKnownError:
            self.is_learning = True
            try:
                self._growth = growth_of(self.model, batch)
            finally:
                self.is_learning = False
        self._start(batch)
        start()
        return answer(self.model, batch, loss)

    def _start(self, batch: Mapping[str, Any]) -> None:
        self._batch, self._restart = batch, _restart_of(batch)
        self._numbers: dict[str, int] = {}
        self._last: dict[str, ref[Call]] = {}  # of each site; gone with its tensors

    def look(self, site: str, call: Call) -> None:
        """Warns where examples that are packed into one row, whose positions start again, see each other."""
        if self._restart is None or call.keys != call.queries or call.rows != len(self._batch["position_ids"]):
            return
        row, token = self._restart
        if token < call.queries and _sees_before(call, row, token):
            self._warn(
                f"position_ids start again in a row, and site {site!r} lets the examples packed there see each other; "
                "give each example a row of its own, or an attention_mask of four dimensions that keeps them apart."
            )

    def of(self, site: str, call: Call) -> Tensor | None:
        """Returns True for queries that are no padding, broadcastable to [rows, heads, queries]; None if all are."""
        if site not in self._last or self._last[site]() is not call:
            self._numbers[site] = self._numbers.get(site, -1) + 1
        self._last[site] = ref(call)
        if _is_in_decoder(site, self._inside):
            return _decoder_tokens(call, self._batch)
        mask = self._mask_of(call)
        if not self._may_read_elsewhere(site, call):
            return _queries_of_self(call, mask)
        if mask is None:
            self._warn_of_masks(site, call)
            return None
        return None if mask.all() else self._queries_of_cross(site, call, mask)

    def _may_read_elsewhere(self, site: str, call: Call) -> bool:
        """Returns True where keys may come from another place than queries, by what the module takes or its name."""
        if isinstance(call, SoftmaxCall) and call.block:
            return False
        return self._sources.has_two(call.module) or _is_called_cross(site, call)

    def _mask_of(self, call: Call) -> Tensor | None:
        """Returns the batch's attention mask where it is one of as many tokens as there are queries, else None."""
        mask = self._batch.get("attention_mask")
        if isinstance(call, SoftmaxCall) and call.block:
            mask = _in_blocks(mask if mask is not None else self._batch.get("input_ids"), mask is not None, call)
        if not isinstance(mask, Tensor) or mask.dim() != 2 or len(mask) != call.rows:
            return None
        before = mask.shape[1] - call.queries
        return mask.bool()[:, before:] if before in self._tokens_before(call) else None

    def _tokens_before(self, call: Call) -> set[int]:
        """Returns how many tokens the mask may speak of before those of the queries: none, or those of a cache.

        Fewer queries than keys alone are no sign of a cache: latents that attend to the text are fewer, too.
        """
        lengths = {int(one.get_seq_length()) for one in self._batch.values() if isinstance(one, Cache)}
        return {0} | lengths | ({call.keys - call.queries} if self._sources.has_cache(call.module) else set())

    def _queries_of_cross(self, site: str, call: Call, mask: Tensor) -> Tensor | None:
        """Returns the same where keys may be of another place, and the mask has as many tokens as there are queries.

        They are the text's if they grow with it.
        """
        if self._growth is None:
            raise _NotKnownError(f"The queries of site {site!r} are not known.")
        grown, number = self._growth.get(site, []), self._numbers[site]
        if number < len(grown):
            queries_grow, keys_grow = grown[number]
            if queries_grow and keys_grow:
                return _queries_of_self(call, mask)
            if not queries_grow and not keys_grow and not _is_called_cross(site, call):
                return _queries_of_self(call, None)
            return mask[:, None] if queries_grow else None
        self._warn(
            f"Whether the queries of site {site!r} are the tokens of attention_mask is not known, since the model does "
            "not run on a longer text; they are taken for these unless the mask hides its keys. Give batches without "
            "padding to be sure."
        )
        return None if _is_of_keys(mask, _seen_keys(call)) else mask[:, None]

    def _warn_of_masks(self, site: str, call: Call) -> None:
        """Warns where no attention mask speaks of the queries, and something else hides keys or may speak of them."""
        seen = _seen_keys(call)
        hides = seen is not None and call.keys == call.queries and not bool(seen.all())
        if (hides and not _is_called_cross(site, call)) or any(self._other_masks(call, seen)):
            self._warn(
                f"All queries of site {site!r} are counted, since no attention_mask says which are padding; give "
                "batches without padding, or a mask of that name."
            )

    def _other_masks(self, call: Call, seen: Tensor | None) -> Iterator[bool]:
        """Yields True for each mask of another name and as many tokens as there are queries, save that of the keys."""
        for name, mask in self._batch.items():
            is_mask = "mask" in name and isinstance(mask, Tensor) and mask.shape == (call.rows, call.queries)
            if is_mask and not mask.all() and bool(((mask == 0) | (mask == 1)).all()):
                yield not _is_of_keys(mask, seen)

    def _warn(self, message: str) -> None:
        if not self._has_warned:
            warnings.warn(message, stacklevel=2)
        self._has_warned = True


def _restart_of(batch: Mapping[str, Any]) -> tuple[int, int] | None:
    """Returns the first row and token at which positions start again, without a mask that may say what that means."""
    positions = batch.get("position_ids")
    if batch.get("attention_mask") is not None or not isinstance(positions, Tensor) or positions.dim() != 2:
        return None
    starts = (positions[:, 1:] < positions[:, :-1]).nonzero()
    return (int(starts[0, 0]), int(starts[0, 1]) + 1) if len(starts) else None


def _sees_before(call: Call, row: int, token: int) -> bool:
    """Returns True for a query that sees the key before it, in any head."""
    if call.mask is None:
        return True
    seen = call.mask.expand(call.rows, -1, call.queries, call.keys)
    return bool(seen[row, :, token, token - 1].any())


def _names_of_encoder_decoders(model: nn.Module) -> list[str]:
    """Returns the names of the models inside whose decoder reads from an encoder: transformers' own where there are.

    A class of one's own around them may call its parts anything.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, PreTrainedModel)}
    names = []
    for name, module in found.items():
        is_outermost = not any(other != name and is_in(name, other) for other in found)
        if is_outermost and getattr(module.config, "is_encoder_decoder", False):
            own = (other for other, one in found.items() if is_in(other, name) if _is_whole(one))
            names.append(next(own, name))
    return names


def _is_whole(module: PreTrainedModel) -> bool:
    """Returns True for a model of transformers that has both an encoder and a decoder."""
    parts = {_part_of(name) for name, _ in module.named_modules()}
    return is_of_transformers(module) and parts >= {"encoder", "decoder"}


def _is_in_decoder(site: str, models: list[str]) -> bool:
    """Returns True for a site in the decoder of one of the encoder-decoder models of these names."""
    return any(is_in(site, name) and _part_of(site[len(name) :]) == "decoder" for name in models)


def _part_of(name: str) -> str:
    """Returns "encoder", "decoder" or "": what the first part of a name says that says either.

    A decoder may be a model that has an encoder inside (BERT).
    """
    said = (part for part in name.lower().split(".") if ("decoder" in part) != ("encoder" in part))
    return next(("decoder" if "decoder" in part else "encoder" for part in said), "")


def _is_called_cross(site: str, call: Call) -> bool:
    own_names = ".".join([*site.split(".")[-2:], type(call.module).__name__]).lower()  # BERT's: crossattention.self
    return any(word in own_names for word in CROSS)


def _is_of_keys(mask: Tensor, seen: Tensor | None) -> bool:
    """Returns True for a mask [rows, tokens] that hides the keys that no query attends to, and no other."""
    return seen is not None and seen.shape[-1] == mask.shape[1] and bool((seen == mask.bool()[:, None]).all())


def _seen_keys(call: Call) -> Tensor | None:
    """Returns the keys that some query attends to, [rows or 1, heads or 1, keys]; None where nothing is hidden."""
    # Keys that weights leave out behind the softmax (all but the largest ones, say) are no padding.
    visible = (call.of_softmax or call).mask if isinstance(call, SoftmaxCall) else call.mask
    return None if visible is None else visible.any(dim=-2)


def _queries_of_self(call: Call, mask: Tensor | None) -> Tensor | None:
    """Returns the same of tokens that attend to each other.

    Padding is a key that no query attends to, unless (sparse attention) the batch's mask says that it is a token. With
    a cache, whose tokens are keys alone, the batch's mask alone says it.
    """
    real = None if mask is None else mask[:, None]
    if call.keys != call.queries:
        return real
    visible = (call.of_softmax or call).mask if isinstance(call, SoftmaxCall) else call.mask
    if visible is None:
        return None
    if isinstance(call, SoftmaxCall) and real is not None:  # in XLNet padding sees itself
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
