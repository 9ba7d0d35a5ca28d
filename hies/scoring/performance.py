"""How well a model answers labelled batches, dense, masked or pruned: `hies.evaluate`."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hies.errors import HiesError, ParameterError
from hies.heads.attention import evaluating
from hies.scoring.examples import check_batches, examples_in
from hies.scoring.losses import (
    IGNORED,
    ONE_CLASS,
    DefaultLoss,
    Loss,
    check_losses,
    default_loss,
    is_of_transformers,
    reads_encoder,
    value_of,
)
from hies.scoring.own_loss import answer, is_close, own_loss, with_loss


@dataclass(frozen=True)
class Performance:
    """How well a model answers; shares are in [0, 1].

    Attributes:
        examples: how many there were.
        loss: the mean of the examples' losses, each as `hies.collect` takes it (cross-entropy in nats, squared error).
        accuracy: the share of right answers: classes of examples or, where a model classifies tokens or says the next
            one, labelled tokens. None where labels name no class.
        agreement: the share of these answers that are those of the reference; None without one.
    """

    examples: int
    loss: float
    accuracy: float | None = None
    agreement: float | None = None


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    reference: nn.Module | None = None,
    loss: Loss | None = None,
) -> Performance:
    """Returns loss and accuracy of a model, and how often it answers as another one does.

    Inside `hies.masked(model, ...)` it is that of the masked model.

    Args:
        model: as `hies.collect` takes it.
        batches: dicts that the model accepts, labels included, as `hies.batches` makes them; they are read once.
        reference: another model that takes the same batches, such as the dense one of a pruned one.
        loss: (outputs, batch) -> [batch], each example's own; by default the model's, as in `hies.collect`.

    Raises:
        HiesError: no example, a batch without labels, a loss that is not known or not finite, or a reference whose
            answers cannot be compared.
    """
    check_batches(batches)
    loss_of: Loss
    batches, loss_of = with_loss(model, batches) if loss is None else (batches, loss)
    losses: list[Tensor] = []
    right: list[Tensor | None] = []
    same: list[Tensor | None] = []
    formula = default_loss(model)
    with evaluating(model), evaluating(reference or model):
        for batch in batches:
            outputs = answer(model, batch, loss_of)
            losses.append(_checked(loss_of(outputs, batch), examples_in(batch), sum(map(len, losses))))
            known = _formula_for(model, outputs, batch, loss_of, formula)
            read = known or formula
            answers, labels = _answers(outputs, batch, read)
            right.append(None if known is None or answers is None or labels is None else answers == labels)
            if reference is not None:
                outputs_of_other = answer(reference, batch, loss_of)
                others, _ = _answers(outputs_of_other, batch, read)
                alike = _outputs(outputs) == _outputs(outputs_of_other)
                same.append(_compared(answers, others if alike else None, reference))
    if not losses:
        raise HiesError("There is no example; give at least one batch.")
    every = torch.cat(losses)
    return Performance(len(every), float(every.mean()), _share(right), _share(same))


def _checked(losses: Tensor, examples: int, before: int) -> Tensor:
    check_losses(losses, examples, differentiable=False)
    if not losses.isfinite().all():
        row = int((~losses.isfinite()).nonzero()[0])
        raise HiesError(f"Example {before + row} has the loss {float(losses[row])}; mend its labels, or leave it out.")
    return losses.double().cpu()


def _formula_for(
    model: nn.Module, outputs: Any, batch: Mapping[str, Any], loss: Loss, formula: DefaultLoss
) -> DefaultLoss | None:
    """Returns how labels of tokens stand beside the logits, where a model of one's own computes the loss itself.

    It is read off that loss: None where it fits neither these logits nor those before.
    """
    logits = value_of(outputs, "logits")
    of_tokens = isinstance(logits, Tensor) and logits.dim() == 3
    if loss is not own_loss or not of_tokens or is_of_transformers(model) or reads_encoder(model):
        return formula
    for one in (formula, replace(formula, shifted=not formula.shifted)):
        with contextlib.suppress(HiesError):  # labels of another form
            totals, counts = one.parts(outputs, batch)
            if is_close(totals.sum() / counts.sum(), own_loss(outputs, batch)[0]):
                return one
    return None


def _answers(outputs: Any, batch: Mapping[str, Any], formula: DefaultLoss) -> tuple[Tensor | None, Tensor | None]:
    """Returns the classes that have the largest logits where the labels name one, and these labels, both [answers]."""
    logits, labels = value_of(outputs, "logits"), formula.labels_of(batch)
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor) or labels.is_floating_point():
        return None, None
    if logits.dim() == 3 and labels.shape == logits.shape[:2]:  # [batch, tokens, words]
        if formula.shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        labelled = labels != IGNORED
        return logits[labelled].argmax(dim=-1), labels[labelled]
    if logits.dim() != 2 or labels.numel() != len(logits) or formula.kind_of(logits, labels) != ONE_CLASS:
        return None, None
    return logits.argmax(dim=-1), labels.reshape(-1)


def _outputs(outputs: Any) -> int | None:
    """Returns how many classes or words the logits are of."""
    logits = value_of(outputs, "logits")
    return logits.shape[-1] if isinstance(logits, Tensor) else None


def _compared(answers: Tensor | None, others: Tensor | None, reference: nn.Module) -> Tensor:
    if answers is None or others is None or answers.shape != others.shape:
        expected = (
            "its answers cannot be compared with the model's; give one with the same outputs, of classes or tokens"
        )
        raise ParameterError("reference", type(reference).__name__, expected)
    return answers == others.to(answers.device)


def _share(parts: list[Tensor | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return float(torch.cat(known).double().mean()) if known and len(known) == len(parts) else None
