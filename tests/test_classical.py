"""The classical way that scoring is compared with: exact at batch size 1, and what it is known to be above that."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks import classical
from hies import collect
from hies.equations import batched_head_importance


@pytest.fixture
def model():
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=31, hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17, num_labels=3
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def batch(generator):
    mask = (torch.arange(11)[None] < torch.tensor([[11], [7], [2], [10], [5]])).long()
    words, labels = (torch.randint(n, size, generator=generator) for n, size in ((31, (5, 11)), (3, (5,))))
    return {"input_ids": words, "attention_mask": mask, "labels": labels}


def table(tensors):
    return torch.stack(list(tensors.values())).float()


def test_one_by_one_it_gives_the_same_numbers(model, batch):
    singles = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(5)]
    importance, entropy = classical.collect(model, singles)
    found = collect(model, [batch])
    torch.testing.assert_close(importance, table(found.his), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(entropy, table(found.ae), rtol=0, atol=2e-6)


def test_a_batch_gives_the_gradient_of_its_sum(model, batch):
    importance, _ = classical.collect(model, [batch])
    found = collect(model, [batch])
    expected = {site: batched_head_importance(gradient, 5) for site, gradient in found["his"].items()}
    torch.testing.assert_close(importance, table(expected), rtol=1e-4, atol=1e-8)
    assert (importance < table(found.his)).any()


def test_the_model_is_left_as_it_was(model, batch):
    classical.collect(model, [batch])
    assert model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
