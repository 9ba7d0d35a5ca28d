"""LLaMA-2-7B's shape with random weights, made where it is needed."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from hies.batching import Batch

FULL = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}
TINY = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 128,
}


def sizes(tiny: bool) -> dict[str, Any]:
    """Returns the sizes of the model, or of one that stands for it in tests."""
    return TINY if tiny else FULL


def build(device: torch.device | str, **chosen: Any) -> PreTrainedModel:
    """Returns a model in bfloat16 whose random weights are drawn on the device itself."""
    with torch.device(device):
        return AutoModelForCausalLM.from_config(LlamaConfig(**chosen), dtype=torch.bfloat16).eval()


def text(device: torch.device | str, vocabulary: int, tokens: int) -> Batch:
    """Returns one text of random words."""
    words = torch.randint(3, vocabulary, (1, tokens), device=device)
    return {"input_ids": words, "labels": words}
