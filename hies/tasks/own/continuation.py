"""What a language model makes of pieces of text: the loss of their tokens, and the token that it expects next."""

from typing import Any

import numpy as np
import torch
from torch import nn

from hies.batching import Encoded
from hies.heads.attention import evaluating
from hies.precision import computing
from hies.scoring.losses import DefaultLoss
from hies.tasks.base import Answers

_LOSS = DefaultLoss(None, shifted=True)  # the mean negative log-likelihood of the tokens of a text


@torch.no_grad()
def read_on(network: nn.Module, tokenizer: Any, examples: Encoded, batch_size: int, precision: str) -> Answers:
    """Returns the most likely next token of each text, and the loss a token.

    Args:
        network: a causal language model, masked or pruned or neither.
        tokenizer: its tokenizer.
        examples: tokens, which are their own labels.
        batch_size: texts at a time.
        precision: of the matrix products.

    Returns:
        `predictions`, the tokens as texts without blanks around them, [examples]; `losses` and `token_losses`, in nats,
        float32 [examples], which are the same here.
    """
    device = next(network.parameters()).device
    tokens, losses = np.empty(len(examples), dtype=np.int64), np.empty(len(examples), dtype=np.float32)
    with evaluating(network), computing(precision, device):
        for indices, batch in examples.padded_for(network).batches(batch_size, device):
            outputs = network(**{name: value for name, value in batch.items() if name != "labels"})
            last = batch["attention_mask"].sum(dim=1) - 1  # [batch]; padding is on the right
            expected = outputs.logits[torch.arange(len(last)), last].argmax(dim=-1)
            tokens[indices], losses[indices] = expected.cpu().numpy(), _LOSS(outputs, batch).cpu().numpy()
    words = [tokenizer.decode([token]).strip() for token in tokens.tolist()]
    return {"predictions": np.array(words, dtype=str), "losses": losses, "token_losses": losses}
