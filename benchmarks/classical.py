"""The same statistics as users of transformers 4 took them, to compare with `hies.collect`.

Eager attention returns the weights of all layers, from which the entropy is computed; one gate a head serves the whole
batch, so that its gradient is a sum over the batch, and the weights stay trainable. It is exact at batch size 1 alone.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import BertPreTrainedModel

from benchmarks.gpu.eager import eager_attention


def collect(model: BertPreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """HIS per batch and AE, each [layers, heads]; the model is left in evaluation mode, without gradients."""
    importance, entropy, examples, count = 0.0, 0.0, 0, 0
    model.eval()
    with eager_attention(model):
        for batch in batches:
            gates = torch.ones(model.config.num_hidden_layers, model.config.num_attention_heads, requires_grad=True)
            with _gated(model, gates):
                outputs = model(**batch, output_attentions=True)
            outputs.loss.backward()
            importance = importance + gates.grad.abs()
            entropy = entropy + torch.stack([_entropy(w.detach(), batch["attention_mask"]) for w in outputs.attentions])
            examples, count = examples + len(batch["labels"]), count + 1
    model.zero_grad(set_to_none=True)
    return importance / count, entropy / examples


def _entropy(weights: Tensor, real: Tensor) -> Tensor:
    """Sum over the examples of the mean over their tokens of H_t / log n_t; [batch, heads, n, n] -> [heads]."""
    products = weights * weights.log()
    products[weights == 0] = 0
    relative = -products.sum(dim=-1) * real[:, None]
    visible = real.sum(dim=-1, keepdim=True)
    return (relative.sum(dim=-1) / (visible.log() * visible)).sum(dim=0)


@contextlib.contextmanager
def _gated(model: BertPreTrainedModel, gates: Tensor) -> Iterator[None]:
    """Multiply the heads' outputs by `gates`, which is cheaper than their weights, as transformers 4 did, and equal."""
    width = model.config.hidden_size // gates.shape[1]
    handles = [
        layer.attention.output.dense.register_forward_pre_hook(
            lambda _, inputs, gate=gate: (inputs[0] * gate.repeat_interleave(width),)
        )
        for layer, gate in zip(model.base_model.encoder.layer, gates, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
