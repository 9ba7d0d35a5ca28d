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
    """The loss that fits the model: (outputs, batch) -> [batch].

    Cross-entropy for classes, squared error for one regression output, mean negative log-likelihood over the labelled
    tokens for language models (labels shifted by one where the model generates from left to right).
    """
    config = getattr(model, "config", None)
    generates = isinstance(model, PreTrainedModel) and model.can_generate()
    shifted = generates and not getattr(config, "is_encoder_decoder", False)

    def loss(outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        if "labels" not in batch:
            raise HiesError("A calibration batch has no 'labels'; head importance is the gradient of a loss.")
        if not hasattr(outputs, "logits"):
            raise HiesError(
                "The model gives no logits; load it with a task's head, or pass loss=(outputs, batch) -> [batch]."
            )
        logits, labels = outputs.logits, batch["labels"]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if logits.dim() == 3:
            return _token_loss(logits, labels, shifted)
        if logits.shape[-1] == 1:
            return (logits.squeeze(-1) - labels.reshape(-1).to(logits.dtype)) ** 2
        if labels.is_floating_point():
            raise HiesError(
                "The labels are fractions but the model has several outputs; pass loss=(outputs, batch) -> [batch]."
            )
        return F.cross_entropy(logits, labels, reduction="none")

    return loss


def _token_loss(logits: Tensor, labels: Tensor, shifted: bool) -> Tensor:
    """Mean negative log-likelihood over each example's labelled tokens; logits [batch, tokens, words] -> [batch]."""
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    each = F.cross_entropy(logits.mT, labels, reduction="none", ignore_index=IGNORED)
    counted = (labels != IGNORED).sum(dim=-1)
    if (counted == 0).any():
        raise HiesError("A calibration example has no labelled token (all labels are -100), so it has no loss.")
    return each.sum(dim=-1) / counted
