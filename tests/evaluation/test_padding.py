"""Padding: nothing may depend on what a text is batched with, whichever token a tokenizer would fill up with."""

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from hies.batching import padding_id
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.models import Model
from hies.tasks import TASKS, Split, Splits
from hies.tasks.base import ClassifierTask
from hies.tasks.classifier import encode, predict
from hies.training import Finetuning
from hies.training.loop import finetune

WORDS = ["<unk>", "<s>", "</s>", "<pad>", *map(str, range(59))]
KINDS = {
    "gpt2": (tf.GPT2ForSequenceClassification, tf.GPT2Config, {"n_embd": 24, "n_layer": 2, "n_head": 3}),
    "llama": (
        tf.LlamaForSequenceClassification,
        tf.LlamaConfig,
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 13},
    ),
    "roberta": (
        tf.RobertaForSequenceClassification,
        tf.RobertaConfig,
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 13},
    ),
}


def classifier(kind, pad):
    network, config, sizes = KINDS[kind]
    torch.manual_seed(0)
    model = network(config(vocab_size=len(WORDS), num_labels=5, initializer_range=0.7, pad_token_id=pad, **sizes))
    return model.eval()


def tokenizer(**special):
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", **special)


def some_texts(count=37):
    draw = np.random.default_rng(0)
    return [" ".join(map(str, draw.integers(0, 59, draw.integers(2, 17)))) for _ in range(count)]


TEXTS = some_texts()
SPLIT = Split({"text": TEXTS}, np.zeros(len(TEXTS), dtype=np.int64))


class Numbers(ClassifierTask):
    """The same texts in every split."""

    name, modality = "numbers", "text"

    def label_names(self, data_root=None):
        return tuple("abcde")

    def load(self, data_root, cache_dir):
        return Splits(SPLIT, SPLIT, SPLIT)


def alone(model, words):
    """What the model answers to each text by itself."""
    with torch.no_grad():
        inputs = [torch.tensor([words(text)["input_ids"]]) for text in TEXTS]
        return [int(model(input_ids=ids).logits.argmax()) for ids in inputs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pad", [2, 61])  # the end of a text, as is usual; another word
@pytest.mark.parametrize("special", [{}, {"pad_token": "<pad>"}, {"model_input_names": ["input_ids"]}])
def test_answers_are_those_of_the_texts_alone(kind, pad, special):
    model, words = classifier(kind, pad), tokenizer(**special)
    found = predict(model, encode(SPLIT, words, 64), 8)["predictions"]
    assert len({*found}) > 1 and found.tolist() == alone(model, words)


@pytest.mark.parametrize(("pad", "special", "chosen"), [
    (None, {"pad_token": "<pad>"}, 3), (None, {}, 2), (-1, {"pad_token": "<pad>"}, 3), (61, {"pad_token": "<pad>"}, 61),
])  # fmt: skip
def test_a_checkpoint_is_told_what_padding_is_where_it_names_none(tmp_path, pad, special, chosen):
    model = classifier("llama", 0)
    model.config.pad_token_id = pad
    model.save_pretrained(tmp_path / "m")
    tokenizer(**special).save_pretrained(tmp_path / "m")
    given = {"checkpoint": {"numbers": str(tmp_path / "m")}, "label_order": {"numbers": [0, 1, 2, 3, 4]}}
    bench = Evaluator(Model(**given), Numbers(), None, tmp_path, torch.device("cpu"))
    assert padding_id(bench.network) == chosen
    (batch,) = bench.calibration(0, 7, 7)
    filled = batch["input_ids"][batch["attention_mask"] == 0]
    assert len(filled) and (filled == chosen).all()


def test_training_fills_up_with_what_the_model_looks_for():
    model, seen = classifier("gpt2", 61), []
    model.transformer.wte.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    finetune(model, encode(SPLIT, tokenizer(pad_token="<pad>"), 64), lambda _: 0.0, Finetuning(epochs=1), "t")
    assert any((ids == 61).any() for ids in seen) and not any((ids == 3).any() for ids in seen)


def test_prompts_are_filled_up_with_it_too():
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**KINDS["llama"][2], vocab_size=len(WORDS), pad_token_id=61))
    inputs = {"contexts": [["1 2 3"], ["1"]], "continuations": [[" 4"], [" 5"]]}
    encoded = TASKS["piqa"]().encode(Split(inputs, np.zeros(2, dtype=np.int64)), tokenizer(), 64)
    batch = encoded.padded_for(model).batch([0, 1])
    assert batch["input_ids"][1].tolist()[2:] == [61, 61] and batch["labels"][1].tolist()[2:] == [-100, -100]
