"""The loss of each example, which head importance differentiates."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hies.errors import HiesError

Loss = Callable[[Any, Mapping[str, Any]], Tensor]  # (model outputs, batch) -> [batch]

IGNORED = -100  # label of a token that does not count, as everywhere in transformers


def default_loss(model: nn.Module) -> Loss:
    """Returns the loss that fits the model: (outputs, batch) -> [batch].

    Cross-entropy for classes, squared error for one regression output, mean negative log-likelihood over the labelled
    tokens for language models (labels shifted by one where the model generates from left to right).
    """
    inner = _unwrapped(model)
    shifted = isinstance(inner, PreTrainedModel) and inner.can_generate() and not reads_encoder(model)

    def loss(outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        if "labels" not in batch:
            raise HiesError(
                "A calibration batch has no 'labels', and head importance is the gradient of a loss; add them, pass "
                "loss=(outputs, batch) -> [batch], or ask for need=('ae',) alone."
            )
        remedy = "pass loss=(outputs, batch) -> [batch]"
        if not hasattr(outputs, "logits"):
            raise HiesError(f"The model gives no logits; load it with a task's head, or {remedy}.")
        logits, labels = outputs.logits, batch["labels"]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if logits.dim() == 3:
            return _token_loss(logits, batch, shifted)
        if logits.shape[-1] == 1:
            return (logits.squeeze(-1) - labels.reshape(-1).to(logits.dtype)) ** 2
        if labels.is_floating_point():
            raise HiesError(f"The labels are fractions but the model has several outputs; {remedy}.")
        return _class_loss(logits, labels)

    return loss


def check_losses(losses: Tensor, examples: int) -> None:
    """Raises HiesError for a loss that is not one number for each example, [examples]."""
    if losses.shape != (examples,):
        several = f"{examples} example{'s' if examples > 1 else ''}"
        raise HiesError(f"The loss has the shape {tuple(losses.shape)} for {several}, not one each.")


def reads_encoder(model: nn.Module) -> bool:
    """Returns True for a model whose decoder reads from an encoder and takes its inputs from labels."""
    return bool(getattr(getattr(_unwrapped(model), "config", None), "is_encoder_decoder", False))


def inputs_of(model: nn.Module, batch: Mapping[str, Any], loss: Loss) -> dict[str, Any]:
    """Returns what a model reads of a batch: labels only where its decoder, or a caller's loss, may need them.

    Without labels a model computes no loss itself, which `default_loss` does not read.
    """
    keep_labels = reads_encoder(model) or getattr(loss, "__module__", None) != default_loss.__module__
    return {name: value for name, value in batch.items() if keep_labels or name != "labels"}


def _unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside what only wraps it (LoRA, torch.compile, data parallelism: modules of one child)."""
    while not isinstance(model, PreTrainedModel) and len(children := list(model.children())) == 1:
        (model,) = children
    return model


def _class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy: logits [batch, classes], labels [batch] -> [batch]."""
    outside = (labels < 0) | (labels >= logits.shape[-1])  # -100 among them: every example counts
    if outside.any():
        classes = f"outside the model's classes 0 to {logits.shape[-1] - 1}"
        raise HiesError(f"A calibration example has the label {int(labels[outside][0])}, {classes}.")
    return F.cross_entropy(logits, labels, reduction="none")


def _token_loss(logits: Tensor, batch: Mapping[str, Any], shifted: bool) -> Tensor:
    """Mean negative log-likelihood over each example's labelled tokens: logits [batch, tokens, words] -> [batch].

    Shifted: a token that only padding comes before carries no loss, as it would not without the padding.
    """
    labels = batch["labels"]
    if shifted:
        logits, mask = logits[:, :-1], batch.get("attention_mask")
        padding = mask[:, :-1] == 0 if mask is not None and mask.shape == labels.shape else None
        labels = labels[:, 1:] if padding is None else labels[:, 1:].masked_fill(padding, IGNORED)
    each = F.cross_entropy(logits.mT, labels, reduction="none", ignore_index=IGNORED)
    counted = (labels != IGNORED).sum(dim=-1)
    if (counted == 0).any():
        raise HiesError("A calibration example has no labelled token (all labels are -100), so it has no loss.")
    return each.sum(dim=-1) / counted
