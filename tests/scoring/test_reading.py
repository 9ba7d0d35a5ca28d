"""`hies.batches`: data of every form as what a model reads, with labels, and a sentence for what has no such form."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from architectures import WORDS
from PIL import Image
from tiny_models import make
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

import hies

TEXTS = ["a b c", "d", "e f g h i", "b b", "c a f e d a b"]
ROWS = [{"idx": i, "sentence": text, "label": i % 3} for i, text in enumerate(TEXTS)]
PAIRS = [{"one": text, "two": text[::-1], "labels": i / 7} for i, text in enumerate(TEXTS)]


def tokenizer(**options):
    words = Tokenizer(WordLevel({word: i + 2 for i, word in enumerate("abcdefghi")} | {"[PAD]": 0, "[UNK]": 1}))
    words.model.unk_token = "[UNK]"
    words.pre_tokenizer = Whitespace()
    options = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "model_input_names": ["input_ids", "attention_mask"],
    } | options
    return tf.PreTrainedTokenizerFast(tokenizer_object=words, **options)


def pictures(count=3):
    noise = np.random.default_rng(0).integers(0, 255, (count, 17, 13, 3), dtype=np.uint8)
    return [{"image": Image.fromarray(one), "label": i} for i, one in enumerate(noise)]


def reader():
    size = {"height": 12, "width": 12}
    return tf.ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def ids(text):
    return ["abcdefghi".index(word) + 2 for word in text.split()]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("form", [list, datasets.Dataset.from_list, iter], ids=["list", "data set", "iterator"])
def test_texts_with_labels_stay_in_order_and_can_be_read_again(form):
    found = hies.batches(tokenizer(), form(ROWS), batch_size=2)
    first, again = list(found), list(found)
    assert len(found) == len(first) == 3 and repr(found) == "Batches(5 examples in 3 batches of up to 2)"
    assert all(same(one, other) for one, other in zip(first, again, strict=True))
    keys = ("input_ids", "attention_mask", "labels")
    examples = [example for batch in first for example in zip(*(batch[key] for key in keys), strict=True)]
    rows = [(row[mask == 1].tolist(), int(label)) for row, mask, label in examples]
    assert rows == [(ids(row["sentence"]), row["label"]) for row in ROWS]
    assert [batch["input_ids"].shape[1] for batch in first] == [3, 5, 7] and first[0]["labels"].dtype == torch.int64


def test_what_comes_out_is_scored_and_evaluated():
    model = make("bert").eval()
    found = hies.batches(tokenizer(), ROWS, model=model, batch_size=2)
    assert hies.collect(model, found).examples == hies.evaluate(model, found).examples == 5


def test_tokens_are_the_labels_of_a_list_of_texts():
    (batch,) = hies.batches(tokenizer(padding_side="left"), TEXTS, max_length=4)
    masked = batch["attention_mask"] == 0
    assert (batch["labels"][masked] == -100).all() and masked.any()
    assert torch.equal(batch["labels"][~masked], batch["input_ids"][~masked])
    assert batch["labels"][2].tolist() == ids("e f g h")
    (rows,) = hies.batches(tokenizer(padding_side="left"), ROWS, "sentence", "tokens", max_length=4)
    assert same(batch, rows)


def test_what_a_model_answers_does_not_depend_on_how_texts_are_batched():
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "n_embd": 22, "n_layer": 1, "n_head": 2, "n_positions": 13}
    gpt2 = tf.GPT2LMHeadModel(tf.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    left = tokenizer(padding_side="left")  # GPT-2 counts positions from the left, padding included
    losses = [hies.evaluate(gpt2, hies.batches(left, TEXTS[2:], model=gpt2, batch_size=size)).loss for size in (1, 3)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_padding_that_is_the_end_of_a_text_is_masked_all_the_same():
    (batch,) = hies.batches(tokenizer(pad_token="a"), TEXTS)
    assert batch["labels"][0].tolist() == [*ids("a b c"), *[-100] * 4]


def test_pairs_of_texts_with_numbers():
    first, *_, last = hies.batches(tokenizer(), PAIRS, ("one", "two"), batch_size=2, padding="max_length", max_length=9)
    assert first["input_ids"].shape == (2, 9) and first["labels"].dtype == torch.float32
    assert first["input_ids"][0].tolist()[:6] == ids("a b c c b a")
    assert float(last["labels"][0]) == pytest.approx(4 / 7)


@pytest.mark.parametrize("labels", [[2, 0, 1, 1, 2], torch.tensor([2, 0, 1, 1, 2]), np.array([2, 0, 1, 1, 2])])
def test_labels_beside_texts(labels):
    batches = list(hies.batches(tokenizer(), TEXTS, labels=labels, batch_size=3))
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [2, 0, 1, 1, 2]


def test_other_forms_of_labels():
    many = hies.batches(tokenizer(), TEXTS[:2], labels=[[1.0, 0.0], [0.5, 1.0]])
    assert next(iter(many))["labels"].tolist() == [[1.0, 0.0], [0.5, 1.0]]
    assert "labels" not in next(iter(hies.batches(tokenizer(), TEXTS, labels="none")))
    model = make("bert")
    model.config.id2label, model.config.label2id = dict(enumerate("xyz")), {"x": 0, "y": 1, "z": 2}
    assert next(iter(hies.batches(tokenizer(), TEXTS[:2], labels=["z", "y"], model=model)))["labels"].tolist() == [2, 1]


def test_pictures_with_labels():
    rows = pictures()
    (batch,) = hies.batches(reader(), rows)
    expected = reader()(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected) and batch["labels"].tolist() == [0, 1, 2]
    grey = hies.batches(reader(), [row["image"].convert("L") for row in rows], labels=[0, 1, 2])
    assert next(iter(grey))["pixel_values"].shape == (3, 3, 12, 12)
    half = make("vit", torch.bfloat16)
    assert next(iter(hies.batches(reader(), rows, model=half)))["pixel_values"].dtype == torch.bfloat16


def test_a_processor_lends_its_part():
    both = SimpleNamespace(tokenizer=tokenizer(), image_processor=reader(), model_input_names=["pixel_values"])
    for one, rows in ((tokenizer(), ROWS), (reader(), pictures())):
        (batch,), (expected,) = hies.batches(both, rows), hies.batches(one, rows)
        assert same(batch, expected)


def test_a_model_gets_what_its_forward_takes_and_its_own_padding():
    names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in next(iter(hies.batches(tokenizer(model_input_names=names), ROWS)))
    model = make("llama")
    model.config.pad_token_id = WORDS - 1
    batch = next(iter(hies.batches(tokenizer(model_input_names=names), TEXTS, model=model)))
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert (batch["input_ids"][batch["attention_mask"] == 0] == WORDS - 1).all()


def test_one_text_at_a_time_needs_no_padding():
    found = list(hies.batches(tokenizer(pad_token=None), TEXTS, batch_size=1))
    assert [len(batch["input_ids"][0]) for batch in found] == [3, 1, 5, 2, 7]


BAD = {
    "no padding token": (tokenizer(pad_token=None), ROWS, {}, "pad_token is None; set it, as in tokenizer.pad_token"),
    "an unknown column": (
        tokenizer(),
        ROWS,
        {"columns": "text"},
        "columns is 'text'; the columns are idx, sentence, la",
    ),
    "unknown labels": (tokenizer(), ROWS, {"labels": "gold"}, "labels is 'gold'; the columns are idx, sentence, label"),
    "no labels": (tokenizer(), [{"text": "a"}], {}, "labels is None; the columns are text; name that of the labels"),
    "two texts": (tokenizer(), PAIRS, {}, "columns is None; 2 of the columns one, two, labels may be read; name one"),
    "no text": (tokenizer(), [{"label": 1}], {}, "columns is None; no column is a text; name one"),
    "three columns": (tokenizer(), PAIRS, {"columns": ["one", "two", "one"]}, "name one column, or two"),
    "labels of others": (tokenizer(), TEXTS, {"labels": [1, 2]}, "give a column, or one label for each of 5 examples"),
    "labels by name": (
        tokenizer(),
        TEXTS,
        {"labels": dict(enumerate([1, 0, 2, 0, 1]))},
        "labels is '{0: 1.*give a column, or one label for each of 5 examples",
    ),
    "columns of texts": (tokenizer(), TEXTS, {"columns": "text"}, "columns is 'text'; the rows have no columns"),
    "nothing": (tokenizer(), [], {}, "data has no example"),
    "a text": (tokenizer(), "a b c", {}, "data is 'a b c'; give a list of texts"),
    "splits": (
        tokenizer(),
        {"train": ROWS},
        {},
        "data is 'dict of train'; give a list of texts or of dicts, or one sp",
    ),
    "numbers": (tokenizer(), [1, 2], {}, "data is 'list'; its rows are texts or dicts"),
    "no batch": (tokenizer(), ROWS, {"batch_size": 0}, "batch_size is 0"),
    "no length": (tokenizer(), ROWS, {"max_length": 0}, "max_length is 0"),
    "other padding": (tokenizer(), ROWS, {"padding": True}, "padding is True; use longest or max_length"),
    "a reader of pictures": (
        reader(),
        ROWS,
        {},
        "reader is 'ViTImageProcessorPil'; what is read is a b c; give a token",
    ),
    "pairs of pictures": (reader(), pictures(), {"columns": ["image", "image"]}, "name one column of pictures"),
    "a label of words": (
        tokenizer(),
        TEXTS,
        {"labels": [*"abcde"]},
        r"data\[0\] has the label 'a', which is no number",
    ),
    "no label": (tokenizer(), TEXTS, {"labels": [0, 1, None, 1, 1]}, r"data\[2\] has the label None; leave it out"),
    "labels of two forms": (tokenizer(), TEXTS, {"labels": [[0, 1], [0], 1, 1, 1]}, "are not of one form"),
    "an empty text": (tokenizer(), [*TEXTS, " "], {}, r"data\[5\] has no token; leave it out"),
    "a missing text": (
        tokenizer(),
        [*ROWS, {"sentence": None, "label": 0}],
        {},
        r"data\[5\] has None, where a text is",
    ),
    "a missing column": (tokenizer(), [*ROWS, {"label": 0}], {}, r"data\[5\] has no 'sentence'"),
    "no picture": (
        reader(),
        [*pictures(2), {"image": "a.png", "label": 1}],
        {},
        r"data\[2\] has a.png, where a picture",
    ),
}


@pytest.mark.parametrize(("by", "data", "options", "message"), BAD.values(), ids=BAD)
def test_what_has_no_such_form_is_refused_by_name(by, data, options, message):
    with pytest.raises(hies.HiesError, match=message):
        list(hies.batches(by, data, **options))


def test_a_table_is_refused_with_what_to_call():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(hies.HiesError, match="to_dict"):
        hies.batches(tokenizer(), pandas.DataFrame(ROWS))


@pytest.mark.parametrize("index", [[3, 0, 4, 1, 2], [0, 2, 5, 7, 9], [*"vwxyz"], [1, 1, 1, 1, 1]])
def test_what_pandas_holds_is_read_in_order_whatever_its_index(index):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, index=index)
    expected = list(hies.batches(tokenizer(), TEXTS, labels=[row["label"] for row in ROWS], batch_size=2))
    rows, text, label = pandas.Series(ROWS, index=index), frame["sentence"], frame["label"]
    forms = [(text, label), (text, label.tolist()), (text.tolist(), label), (rows, "label"), (rows, label)]
    for data, labels in forms:
        columns = "sentence" if data is rows else None
        found = list(hies.batches(tokenizer(), data, columns, labels, batch_size=2))
        assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    pairs = hies.batches(tokenizer(), pandas.Series(PAIRS, index=index), ("one", "two"))
    assert same(*(next(iter(one)) for one in (pairs, hies.batches(tokenizer(), PAIRS, ("one", "two")))))


def test_several_labels_of_each_text_in_a_frame():
    pandas = pytest.importorskip("pandas")
    labels = np.arange(15).reshape(5, 3) % 2 * 1.0
    frame = pandas.DataFrame(labels, index=[3, 0, 4, 1, 2])
    (batch,) = hies.batches(tokenizer(), TEXTS, labels=frame)
    assert batch["labels"].tolist() == labels.tolist()


class Passing(tf.BertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.bert, self.classifier = tf.BertModel(config), nn.Linear(config.hidden_size, 3)
        self.post_init()

    def forward(self, labels=None, **inputs):
        logits = self.classifier(self.bert(**inputs).pooler_output)
        return {"logits": logits, "loss": None if labels is None else F.cross_entropy(logits, labels)}


def test_what_a_forward_of_ones_own_hands_on_is_kept():
    model, labels = Passing(make("bert").config).eval(), [0, 1, 2, 0, 1]
    found = hies.batches(tokenizer(), TEXTS, labels=labels, model=model)
    assert set(next(iter(found))) == {"input_ids", "attention_mask", "labels"}
    alone = hies.batches(tokenizer(), TEXTS, labels=labels, model=model, batch_size=1)
    assert hies.evaluate(model, found).loss == pytest.approx(hies.evaluate(model, alone).loss, rel=1e-5)
