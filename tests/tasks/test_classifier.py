"""The losses beside the answers of a classifier: those of each example alone, whatever it is batched with."""

import numpy as np
import pytest
import torch
import transformers as tf

from hies.tasks.classifier import encode, predict
from hies.tasks.splits import Split

SIZES = {
    "hidden_size": 14, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 11, "vocab_size": 37,
    "max_position_embeddings": 32,
}  # fmt: skip
LENGTHS = (3, 11, 7, 2, 5)


def model(outputs):
    torch.manual_seed(0)
    return tf.BertForSequenceClassification(tf.BertConfig(**SIZES, num_labels=outputs, initializer_range=0.5)).eval()


def words(*columns, **options):
    """A tokenizer of numbers in a row."""
    ids = [[int(word) for word in text.split()] for text in columns[0]]
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}


words.pad_token_id = 0


def split_of(labels):
    draw = np.random.default_rng(0)
    return Split({"text": [" ".join(map(str, draw.integers(1, 37, length))) for length in LENGTHS]}, labels)


def logits_of(network, split):
    """Of each text alone, float64 [examples, outputs]."""
    with torch.no_grad():
        inputs = [torch.tensor([[int(word) for word in text.split()]]) for text in split.inputs["text"]]
        return torch.cat([network(input_ids=ids).logits for ids in inputs]).double().numpy()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_loss_of_a_class_is_its_cross_entropy_in_nats(size):
    network, split = model(3), split_of(np.array([2, 0, 1, 1, 2]))
    logits = logits_of(network, split)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), split.labels]
    found = predict(network, encode(split, words, 32), size)
    np.testing.assert_allclose(found["losses"], expected, rtol=1e-5)
    assert (found["predictions"] == logits.argmax(axis=1)).all() and np.ptp(expected) > 0.1


def test_the_loss_of_a_score_is_its_squared_error():
    network, split = model(1), split_of(np.array([0.0, 5.0, 2.5, 1.2, 3.8], dtype=np.float32))
    logits = logits_of(network, split)[:, 0]
    found = predict(network, encode(split, words, 32), 2)
    np.testing.assert_allclose(found["predictions"], logits, rtol=1e-5)
    np.testing.assert_allclose(found["losses"], (logits - split.labels) ** 2, rtol=1e-4)


def test_losses_of_bfloat16_answers_are_float32():
    found = predict(model(3), encode(split_of(np.array([2, 0, 1, 1, 2])), words, 32), 2, "bfloat16")
    assert found["losses"].dtype == np.float32 and np.isfinite(found["losses"]).all()
