"""The loss that a model computes itself, against which the default loss is checked once before a pass."""

import contextlib
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from hies.errors import HiesError, first_line
from hies.heads.attention import evaluating, uncached
from hies.heads.forwards import intercepted, lent, unreadable
from hies.heads.implementations import configs_of, restored
from hies.precision import chance_kept
from hies.scoring.examples import doubled, examples_in, single_examples
from hies.scoring.losses import (
    IGNORED,
    LOSS_REMEDY,
    ONE_CLASS,
    DefaultLoss,
    Loss,
    default_loss,
    inputs_of,
    is_of_transformers,
    models_inside,
    reads_encoder,
    value_of,
)
from hies.scoring.rows import parts_of

_Batch = Mapping[str, Any]

CLASSES = 64  # labels of more values are words
USUAL = frozenset(("labels", "input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"))
LOOKED_AT = 16  # batches, which are read ahead


def with_loss(model: nn.Module, batches: Iterable[_Batch]) -> tuple[Iterable[_Batch], Loss]:
    """Returns the batches to pass through a model and the loss of their examples, which is the model's own.

    Where no formula gives it for a batch, the batches are those of single examples and the model computes it.

    Raises:
        HiesError: the model's loss is not known, or not one of single examples.
    """
    rest = iter(batches)
    ahead = itertools.islice(rest, LOOKED_AT)  # kept, since a generator gives each batch once, and may use it again
    looked_at = [_kept(batch) for batch in ahead] if rest is batches else [*ahead]
    if not looked_at:
        return [], default_loss(model)
    batches = itertools.chain(looked_at, rest)
    loss = fitting_loss(model, *looked_at)
    if isinstance(loss, DefaultLoss):
        return batches, loss
    parts = (part for batch in batches for part in parts_of(model, _labelled(model, batch), loss))
    return (one for part in parts for one in single_examples(part)), loss


def _kept(batch: Any) -> Any:
    """Returns a batch in memory of its own."""
    if not isinstance(batch, Mapping):
        return batch  # which is no batch, as is said where it is read
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in batch.items()}


def own_loss(outputs: Any, batch: _Batch) -> Tensor:
    """Returns the loss that a model has computed of a batch, [1]: that of the example, if there is one."""
    loss = value_of(outputs, "loss")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise HiesError("The model computes no loss of a calibration example; give each what the loss needs.")
    if not loss.isfinite():
        raise HiesError(
            f"The model's own loss of a calibration example is {float(loss)}: its labels leave nothing to compute it "
            f"of (an answer that was cut away, say); leave it out, or {LOSS_REMEDY}."
        )
    return loss.reshape(1)


def answer(model: nn.Module, batch: _Batch, loss: Loss) -> Any:
    """Returns what a model gives for a batch, its configuration left as it was.

    Raises:
        HiesError: labels that its own loss cannot read.
    """
    inputs = inputs_of(model, batch, loss)
    # Models write there what they take labels for; a search runs one thousands of times, without any.
    leaving = same_problem_type(model) if "labels" in inputs else contextlib.nullcontext()
    try:
        with uncached(model, batch), leaving:
            return model(**lent(inputs))
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, HiesError | torch.OutOfMemoryError):
            raise
        is_callers = loss is not own_loss and not isinstance(loss, DefaultLoss)
        if is_callers and "labels" in inputs and not reads_encoder(model):
            # It may be the model's own loss that cannot read them, which the caller's stands in for.
            return answer(model, {name: value for name, value in batch.items() if name != "labels"}, loss)
        raise HiesError(_unreadable(model, batch, error)) from error


def _unreadable(model: nn.Module, batch: _Batch, error: Exception) -> str:
    """Returns what to say of a batch that a model cannot read."""
    size = examples_in(batch)
    what = "a calibration example" if size == 1 else f"a batch of {size} examples"
    return unreadable(model, what, batch, error, f"mend its inputs or labels, or {LOSS_REMEDY}")


def fitting_loss(model: nn.Module, batch: _Batch, *later: _Batch) -> Loss:
    """Returns `default_loss` where it is the model's own loss of an example, else `own_loss`.

    That is looked at for the first example of a batch, and for each whose labels have a value that those before lack:
    a weight of some classes, or of positive labels, shows in no other. Of a regression by a model of one's own all
    examples are looked at, since its loss may treat large errors otherwise. An item that the logits do not depend on
    may be a weight of each example, which shows in none alone: then it is the model's own loss.

    Args:
        model: see `hies.collect`.
        batch: the first one.
        later: others whose labels are looked at, too.

    Raises:
        HiesError: as `with_loss`.
    """
    examples_in(batch)  # names what is no batch
    formula = default_loss(model)
    with torch.no_grad(), evaluating(model), chance_kept(), same_problem_type(model):
        example, outputs, own = _first_answer(model, _labelled(model, batch), formula)
        if own is None:
            return _unchecked(model, formula, outputs, example)
        try:
            totals, counts = formula.parts(outputs, example)
        except HiesError:
            if not own.isfinite():  # what the labels lack has been said
                raise
        else:
            of_library = is_of_transformers(model)
            unlike = _unlike((batch, *later), of_library) if examples_in(example) == 1 else ()
            fits = is_close(totals.sum() / counts.sum(), own)
            fits = fits and not _may_weigh(model, example, outputs, formula)
            if fits and all(_fits(model, _labelled(model, one), formula) for one in unlike):
                return formula
        _check_own(model, example, outputs, own)
    return own_loss


def _unlike(batches: Iterable[_Batch], of_library: bool) -> Iterator[_Batch]:
    """Yields the examples, but for the first, whose labels name a class that none before does (or its absence).

    Words are too many: after CLASSES values no further example is looked at. Of a regression these are whole batches,
    unless transformers has written its loss.
    """
    seen: set[tuple[int, float]] = set()
    for batch in batches:
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or not labels.numel():
            return  # the pass names it
        if any(isinstance(value, Cache) for value in batch.values()):
            return  # of which no example can be cut
        if labels.is_floating_point() and not ((labels == 0) | (labels == 1)).all():
            if of_library:
                return
            yield batch
            continue
        several = labels.is_floating_point() and labels.dim() == 2  # yes or no for each output
        for i, row in enumerate(labels.reshape(len(labels), -1).tolist()):
            new = {*enumerate(row)} if several else {(0, value) for value in row if value != IGNORED}
            if seen and new - seen:
                if len(seen) > CLASSES:
                    return
                yield single_examples(batch)[i]
            seen |= new


def _may_weigh(model: nn.Module, example: _Batch, outputs: Any, formula: DefaultLoss) -> bool:
    """Returns True where an item that no model of transformers knows may reach the loss beside the logits.

    One forward pass an item shows it: of the same example with other values of the item. Batches of known items take
    none.
    """
    for name in _unknown_items(model, example):
        other = {**example, name: _other_values(example[name])}
        logits = value_of(outputs, "logits")
        try:
            new = value_of(_answer(model, other)[0], "logits")
        except torch.OutOfMemoryError:
            raise
        except Exception:  # of whatever kind it is; then nothing is known of the item
            return True
        if torch.equal(logits, new) or not _fits(model, other, formula):
            return True
    return False


def _unknown_items(model: nn.Module, batch: _Batch) -> list[str]:
    """Returns the tensors of a batch that a model of one's own takes, and none of transformers' inside does."""
    if is_of_transformers(model):
        return []
    inside = (one for one in model.modules() if isinstance(one, PreTrainedModel) and is_of_transformers(one))
    known = USUAL.union(*(inspect.signature(one.forward).parameters for one in inside))
    taken = inputs_of(model, batch, own_loss)
    return [name for name, value in taken.items() if name not in known and isinstance(value, Tensor)]


def _other_values(item: Tensor) -> Tensor:
    """Returns an item with other values, not all changed alike: half of flags or numbers, all fractions."""
    steps = torch.arange(item.numel(), device=item.device).view(item.shape)
    if item.is_floating_point():
        return item * (1 + steps % 3 / 2) + 0.5
    if item.dtype == torch.bool or bool(((item == 0) | (item == 1)).all()):
        return torch.where(steps % 2 == 0, 1 - item.long(), item.long()).to(item.dtype)
    return torch.where(steps % 2 == 0, (item - 1).clamp(min=0), item)


def _fits(model: nn.Module, example: _Batch, formula: DefaultLoss) -> bool:
    try:
        outputs, own = _answer(model, example)
        totals, counts = formula.parts(outputs, example)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # the pass will say which batch cannot be read
        return True
    return own is not None and is_close(totals.sum() / counts.sum(), own)


def same_problem_type(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Returns a context that gives configs their `problem_type` back: models write there what labels look like."""
    return restored(configs_of(model, "problem_type"), "problem_type")


def _labelled(model: nn.Module, batch: _Batch) -> _Batch:
    return {**batch, "labels": default_loss(model).labels_of(batch)} if "labels" in batch else batch


def _first_answer(model: nn.Module, batch: _Batch, formula: DefaultLoss) -> tuple[_Batch, Any, Tensor | None]:
    """Returns the first example, or the batch where it cannot be cut out, what the model gives, and its own loss."""
    with contextlib.suppress(Exception):  # rows that are no example's, which we or the model may see
        if not any(isinstance(value, Cache) for value in batch.values()):
            example = single_examples(batch)[0]
            return example, *_answer(model, example)
    try:
        return batch, *_answer(model, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        try:
            outputs = model(**lent(inputs_of(model, batch, formula)))
        except Exception as again:
            if isinstance(again, HiesError | torch.OutOfMemoryError):
                raise
            raise HiesError(f"{type(model).__name__} cannot read a calibration batch ({cause}).") from error
        formula(outputs, batch)  # may say better what is wrong with the labels
        raise HiesError(
            f"The model's own loss cannot read the labels ({cause}); mend them, or {LOSS_REMEDY}."
        ) from error


def _answer(model: nn.Module, batch: _Batch) -> tuple[Any, Tensor | None]:
    """Returns the outputs of a model that is given labels, and the loss that it, or the one inside it, computes."""
    losses = []

    def give_labels(inner: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("labels") is None and "labels" in batch:
            kwargs["labels"] = batch["labels"]
        outputs = forward(*args, **kwargs)
        losses.append(value_of(outputs, "loss"))
        return outputs

    inside = models_inside(model)
    is_wrapped = len(inside) == 1 and inside[0] is not model and not reads_encoder(model)
    takes = is_wrapped and "labels" in inspect.signature(inside[0].forward).parameters
    with intercepted(inside if takes else [], give_labels):
        outputs = model(**lent(inputs_of(model, batch, own_loss)))
    own = value_of(outputs, "loss")
    own = losses[0] if own is None and len(losses) == 1 else own
    return outputs, own if isinstance(own, Tensor) and own.numel() == 1 else None


def _unchecked(model: nn.Module, formula: DefaultLoss, outputs: Any, batch: _Batch) -> DefaultLoss:
    """Returns the formula for a model without a loss of its own where there is but one: whole-number classes."""
    losses, logits, labels = formula(outputs, batch), value_of(outputs, "logits"), batch["labels"]
    if len(losses) and logits.dim() == 2 and formula.kind_of(logits, labels) == ONE_CLASS:
        return formula
    kind, shapes = type(model).__name__, f"labels {tuple(labels.shape)} and logits {tuple(logits.shape)}"
    raise HiesError(f"{kind} computes no loss itself, so which one fits {shapes} is not known; {LOSS_REMEDY}.")


def _check_own(model: nn.Module, example: _Batch, outputs: Any, own: Tensor) -> None:
    """Refuses a loss of the model's own that cannot be had for examples alone, or depends on the others of a batch."""
    kind = type(model).__name__
    if value_of(outputs, "loss") is None:
        raise HiesError(f"{kind} does not give the loss of the model inside it; return it as 'loss', or {LOSS_REMEDY}.")
    if not own.isfinite():
        raise HiesError(
            f"The loss of the first calibration example is {float(own)}; mend its labels, or {LOSS_REMEDY}."
        )
    if examples_in(example) > 1:
        raise HiesError(
            f"The model's own loss needs examples one by one; give batches of one example, or {LOSS_REMEDY}."
        )
    twice = _answer(model, doubled(example))[1]
    if twice is None or not (is_close(twice, own) or is_close(twice, 2 * own)):  # a mean, or a sum
        raise HiesError(
            f"The loss of {kind} depends on what an example is batched with (contrastive) or on chance, and head "
            f"importance needs one of the example alone; {LOSS_REMEDY}."
        )


def is_close(one: Tensor, other: Tensor) -> bool:
    """Returns True for losses that are equal up to rounding in the model's own dtype."""
    rounding = 4 * torch.finfo(other.dtype).eps  # of log-probabilities as well, however small the loss
    return bool(torch.isclose(one.double(), other.double(), rtol=1e-4 + rounding, atol=1e-5 + rounding))


@torch.no_grad()
def example_losses(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Returns the loss of every example of labelled batches, float64 [examples]."""
    examples, loss_of = with_loss(model, batches)
    with evaluating(model):
        losses = [loss_of(answer(model, batch, loss_of), batch) for batch in examples]
    return torch.cat(losses).double().cpu().numpy()
