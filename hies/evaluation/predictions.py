"""What a model answers on a split."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from hies.batching import Batch, Encoded
from hies.heads.attention import evaluating
from hies.precision import computing
from hies.scoring.losses import default_loss


@torch.no_grad()
def predict(model: nn.Module, examples: Encoded, batch_size: int, precision: str = "float32") -> np.ndarray:
    """The model's answers, [examples]: class indices (int64), or scores (float32) where it has one output."""
    device = next(model.parameters()).device
    answers: np.ndarray | None = None
    with evaluating(model), computing(precision, device):
        for indices, batch in examples.batches(batch_size, device):
            batch.pop("labels")
            logits = model(**batch).logits
            answer = (logits[:, 0].float() if logits.shape[1] == 1 else logits.argmax(dim=1)).cpu().numpy()
            if answers is None:
                answers = np.empty(len(examples), dtype=answer.dtype)
            answers[indices] = answer
    return np.empty(0, dtype=np.int64) if answers is None else answers


@torch.no_grad()
def example_losses(model: nn.Module, batches: Iterable[Batch]) -> np.ndarray:
    """The loss of every example of labelled batches, float64 [examples]."""
    loss_of = default_loss(model)
    with evaluating(model):
        losses = [
            loss_of(model(**{name: value for name, value in batch.items() if name != "labels"}), batch)
            for batch in batches
        ]
    return torch.cat(losses).double().cpu().numpy()
