"""What a model answers on a split."""

import numpy as np
import torch
from torch import nn

from hies.attention import evaluating
from hies.batching import Encoded


@torch.no_grad()
def predict(model: nn.Module, examples: Encoded, batch_size: int) -> np.ndarray:
    """The model's answers, [examples]: class indices (int64), or scores (float32) where it has one output."""
    device = next(model.parameters()).device
    answers: np.ndarray | None = None
    with evaluating(model):
        for indices, batch in examples.batches(batch_size, device):
            batch.pop("labels")
            logits = model(**batch).logits
            answer = (logits[:, 0].float() if logits.shape[1] == 1 else logits.argmax(dim=1)).cpu().numpy()
            if answers is None:
                answers = np.empty(len(examples), dtype=answer.dtype)
            answers[indices] = answer
    return np.empty(0, dtype=np.int64) if answers is None else answers
