"""What a model of one's own computes is not told from its first example alone, and what it is given stays as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from tiny_models import make, make_batch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hies
from hies import HiesError
from hies.scoring.examples import single_examples
from hies.scoring.losses import DefaultLoss
from hies.scoring.own_loss import with_loss


class Weighted(nn.Module):
    """BERT with a loss that counts positive labels, or classes, more."""

    def __init__(self, loss):
        super().__init__()
        self.bert, self.loss = make("bert").eval(), loss

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.bert(input_ids, attention_mask).logits
        return {"logits": logits, "loss": None if labels is None else self.loss(logits, labels)}


def positive(logits, labels):
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.full(labels.shape[1:], 8.0))


def rare(logits, labels):
    return (F.cross_entropy(logits, labels, reduction="none") * torch.tensor([1.0, 1, 5])[labels]).mean()


FEW = torch.tensor([[0.0, 0, 0], [1, 0, 1], [0, 1, 0]])  # no positive label in the first example


@pytest.mark.parametrize(("loss", "labels"), [(positive, FEW), (rare, torch.tensor([0, 2, 1]))])
def test_a_weight_that_the_first_example_does_not_show(loss, labels):
    model, batch = Weighted(loss).eval(), {**make_batch("bert"), "labels": labels}
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    alone = single_examples(batch)
    true = sum(model(**one)["loss"].item() for one in alone) / 3
    for given in (alone, alone[::-1], [batch], [*alone[:1], *alone]):
        expected = true if len(given) < 4 else (3 * true + model(**alone[0])["loss"].item()) / 4
        assert hies.evaluate(model, given).loss == pytest.approx(expected, rel=1e-5)
    his = [hies.collect(model, given).his for given in (alone, alone[::-1])]
    assert all(torch.allclose(one, other) for one, other in zip(his[0].values(), his[1].values(), strict=True))
    plain = Weighted(F.cross_entropy)
    assert isinstance(with_loss(plain, single_examples({**batch, "labels": torch.tensor([0, 2, 1])}))[1], DefaultLoss)


def test_batches_that_are_given_once_are_looked_at_as_well():
    labels = torch.tensor([0, 1, 0])
    first = {name: value for name, value in make_batch("bert").items() if name in ("input_ids", "attention_mask")}
    given = [{**first, "labels": labels}, {**first, "labels": labels.roll(1) * 2}]
    model = Weighted(rare).eval()
    alone = [one for batch in given for one in single_examples(batch)]
    true = sum(model(**one)["loss"].item() for one in alone) / 6
    assert hies.evaluate(model, (batch for batch in given)).loss == pytest.approx(true, rel=1e-5)


class Robust(nn.Module):
    """BERT with one output, whose loss counts no error beyond a limit."""

    def __init__(self):
        super().__init__()
        self.bert, self.head = make("bert").bert, nn.Linear(35, 1)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.head(self.bert(input_ids, attention_mask).pooler_output)
        return {"logits": logits, "loss": None if labels is None else limited(logits, labels).mean()}


def limited(logits, labels):
    return ((logits[:, 0] - labels) ** 2).clamp(max=9)


@pytest.mark.parametrize("parts", [1, 3])  # the outlier is in the first batch, or the last
def test_a_regression_that_only_some_example_shows_to_be_another(parts):
    batch = {name: value for name, value in make_batch("bert").items() if name in ("input_ids", "attention_mask")}
    model = Robust().eval()
    batch["labels"] = model(**batch)["logits"][:, 0].detach() + torch.tensor([0.3, -0.2, 50.0])
    given = [batch] if parts == 1 else single_examples(batch)
    expected = hies.collect(model, [batch], loss=lambda outputs, batch: limited(outputs["logits"], batch["labels"]))
    found = hies.collect(model, (one for one in given))
    for site, his in expected.his.items():
        torch.testing.assert_close(found.his[site], his, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("later", "message"), [(None, "batches is .'NoneType'."), ("empty", "has no example")])
def test_a_batch_that_is_none_or_empty_is_named_wherever_it_stands(later, message):
    batch = make_batch("bert")
    odd = {name: value[:0] for name, value in batch.items()} if later else None
    for given in ([batch, odd], [odd], [odd, batch]):
        with pytest.raises(HiesError, match=message):
            hies.collect(make("bert"), given)


class Counted(nn.Module):
    """BERT whose loss reads an item that BERT does not take, or, if `looks`, which adds it to the logits."""

    def __init__(self, loss, looks=False):
        super().__init__()
        self.bert, self.loss, self.looks = make("bert").eval(), loss, looks

    def forward(self, input_ids, attention_mask=None, labels=None, item=None):
        logits = self.bert(input_ids, attention_mask).logits
        logits = logits + item[:, None] if self.looks else logits * 1
        if labels is None:
            return {"logits": logits}
        each = F.cross_entropy(logits, labels, reduction="none")
        return {"logits": logits, "loss": self.loss(each, item)}


OF_EACH = {
    "weights": (lambda each, item: (each * item).mean(), torch.tensor([1.0, 1, 5])),
    "groups": (lambda each, item: (each * torch.tensor([1.0, 1, 7])[item]).mean(), torch.tensor([1, 0, 2])),
    "flags": (lambda each, item: (each * (1 + item)).mean(), torch.tensor([False, False, True])),
}


@pytest.mark.parametrize(("loss", "item"), OF_EACH.values(), ids=OF_EACH)
def test_a_weight_of_each_example_is_not_left_out(loss, item):
    model, batch = Counted(loss).eval(), {**make_batch("bert"), "labels": torch.tensor([1, 1, 1]), "item": item}
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", "item")}
    alone = single_examples(batch)
    expected = [model(**one)["loss"].item() for one in alone]
    for given in ([batch], alone, iter(alone)):
        assert hies.evaluate(model, given).loss == pytest.approx(sum(expected) / 3, rel=1e-5)
    own = {
        "loss": lambda outputs, one: torch.stack([loss(F.cross_entropy(outputs["logits"], one["labels"]), one["item"])])
    }
    right, found = (hies.collect(model, alone, ("his",), **options).his for options in (own, {}))
    assert all(torch.allclose(found[site], values, rtol=1e-4) for site, values in right.items())


def test_a_mask_of_the_loss_alone_is_not_left_out():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make("llama").eval()

        def forward(self, input_ids, labels=None, loss_mask=None):
            logits = self.inner(input_ids=input_ids).logits
            if labels is None:
                return {"logits": logits}
            each = F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none")
            return {"logits": logits, "loss": (each * loss_mask[:, 1:]).sum() / loss_mask[:, 1:].sum()}

    model, row = Masked().eval(), torch.tensor([5, 9, 3, 17, 11, 28, 8])
    words = torch.stack([row, row.flip(0), row.roll(2)])  # labels of no new value
    shown = torch.ones_like(words)
    shown[1:, :4] = 0
    batch = {"input_ids": words, "labels": words, "loss_mask": shown}
    expected = sum(model(**one)["loss"].item() for one in single_examples(batch)) / 3
    assert hies.evaluate(model, [batch]).loss == pytest.approx(expected, rel=1e-5)


def test_what_the_logits_depend_on_is_no_weight_and_known_items_cost_no_pass(monkeypatch):
    batch = {**make_batch("bert"), "item": torch.tensor([0.5, 1.5, 2.5])}
    names = ("input_ids", "attention_mask", "labels")
    looking = Counted(lambda each, item: each.mean(), looks=True).eval()
    assert isinstance(with_loss(looking, [{name: batch[name] for name in (*names, "item")}])[1], DefaultLoss)
    passes, bert = [], make("bert").eval()
    forward = bert.forward
    bert.forward = lambda *args, **kwargs: passes.append(1) or forward(*args, **kwargs)
    plain = Counted(lambda each, item: each.mean()).eval()
    plain.bert = bert
    same = {**{name: batch[name] for name in names}, "labels": torch.tensor([1, 1, 1])}
    assert isinstance(with_loss(plain, [same])[1], DefaultLoss) and len(passes) == 1


class Speaker(nn.Module):
    """A language model of one's own: its labels stand beside the next token, or, if `here`, beside their own."""

    def __init__(self, here):
        super().__init__()
        self.body, self.here = make("llama").eval(), here

    def forward(self, input_ids, attention_mask=None, labels=None):
        said = F.one_hot(input_ids if self.here else torch.roll(input_ids, -1, 1), self.body.config.vocab_size)
        logits = self.body.model(input_ids, attention_mask).last_hidden_state.mean() + 9.0 * said
        if labels is None:
            return {"logits": logits}
        shown, meant = (logits, labels) if self.here else (logits[:, :-1], labels[:, 1:])
        return {"logits": logits, "loss": F.cross_entropy(shown.mT, meant)}


@pytest.mark.parametrize("here", [True, False])
def test_the_tokens_that_labels_stand_beside_are_read_off_the_loss(here):
    model, words = Speaker(here).eval(), torch.randint(3, 29, (2, 7))
    found = hies.evaluate(model, [{"input_ids": words, "labels": words}], reference=model)
    assert (found.accuracy, found.agreement) == (1, 1)


def test_a_loss_of_tokens_that_fits_neither_way_gives_no_accuracy():
    model, words = Speaker(here=True).eval(), torch.randint(3, 29, (2, 7))
    forward = model.forward

    def smoothed(input_ids, attention_mask=None, labels=None):
        outputs = forward(input_ids, attention_mask, labels)
        return outputs | ({} if labels is None else {"loss": outputs["loss"] + 1})

    model.forward = smoothed
    found = hies.evaluate(model, [{"input_ids": words, "labels": words}], reference=model)
    assert found.accuracy is None and found.agreement == 1


def test_a_cache_of_the_caller_stays_as_it_is_and_its_tokens_are_no_queries():
    model, site = make("llama").eval(), "model.layers.0.self_attn"
    words, real = torch.randint(3, 29, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    real[2, 3:] = 0

    def past(rows):
        with torch.no_grad():
            return model(torch.tensor([[5, 6, 7, 8]]).expand(rows, -1), use_cache=True).past_key_values

    mask = torch.cat([torch.ones(3, 4, dtype=torch.long), real], 1)
    together = {"input_ids": words, "attention_mask": mask, "past_key_values": past(3)}
    short = {"input_ids": words[2:, :3], "attention_mask": mask[2:, :7], "past_key_values": past(1)}
    entropies = [hies.collect(model, [batch], need=("ae",))["ae"][site] for batch in (together, short)]
    assert torch.allclose(entropies[0][2], entropies[1][0], atol=1e-6)
    batch = {"input_ids": words[:2], "labels": words[:2], "past_key_values": past(2)}
    found = [hies.evaluate(model, [batch], reference=copy.deepcopy(model)) for _ in range(2)]
    assert found[0] == found[1] and found[0].agreement == 1
    hies.find_sites(model, batch)
    assert batch["past_key_values"].get_seq_length() == 4


def test_labels_that_only_the_callers_loss_can_read():
    model, batch = make("bert").eval(), make_batch("bert")

    def loss(outputs, batch):
        return (outputs.logits.mean(1) - batch["labels"].float().reshape(len(batch["labels"]), -1).mean(1)) ** 2

    for labels in (torch.rand(3, 5), torch.tensor([0, 1, 99])):
        given = [{**batch, "labels": labels}]
        assert hies.collect(model, given, loss=loss).examples == hies.evaluate(model, given, loss=loss).examples == 3


@pytest.mark.parametrize("read", [hies.collect, hies.evaluate])
def test_a_later_batch_that_the_model_cannot_read(read):
    model, batch = make("bert").eval(), make_batch("bert")
    most = model.config.max_position_embeddings
    good = {name: batch[name] for name in ("input_ids", "labels")}
    long = good | {"input_ids": torch.randint(1, 20, (3, most + 2))}
    with pytest.raises(HiesError, match=f"{most + 2} tokens and the model {most} positions: cut them .*max_length"):
        read(model, [good, long])
    with pytest.raises(HiesError, match=r"cannot read a batch of 3 examples .*mend its inputs"):
        read(model, [good, good | {"input_ids": good["input_ids"] + 10_000}])


# --- where keys come from another place than queries ------------------------------------------------------------------

WIDTH, HEADS, WORDS = 22, 2, 29


class Attending(nn.Module):
    """Attention to a context; `swapped` names that first."""

    def __init__(self, swapped=False):
        super().__init__()
        self.num_heads, self.swapped = HEADS, swapped
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, hidden, context, mask):
        hidden, context = (context, hidden) if self.swapped else (hidden, context)
        parts = zip((self.q_proj, self.k_proj, self.v_proj), (hidden, context, context), strict=True)
        query, key, value = (part(of).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part, of in parts)
        found = F.scaled_dot_product_attention(query, key, value, None if mask is None else mask[:, None, None].bool())
        return self.o_proj(found.transpose(1, 2).flatten(2))


class Registered(Attending):
    """The same through transformers' interface."""

    def __init__(self):
        super().__init__()
        self.is_causal = False

    def forward(self, hidden, context, mask):
        parts = zip((self.q_proj, self.k_proj, self.v_proj), (hidden, context, context), strict=True)
        states = [part(of).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part, of in parts]
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        shown = None if mask is None else mask[:, None, None].bool().expand(-1, 1, hidden.shape[1], -1)
        return self.o_proj(attend(self, *states, shown)[0].flatten(2))


class Reading(nn.Module):
    """Reads a context beside its text."""

    def __init__(self, inner, swapped=False):
        super().__init__()
        self.words, self.body = nn.Embedding(WORDS, WIDTH), Attending()
        self.looking, self.swapped = inner, swapped  # a name that says nothing

    def forward(self, input_ids, attention_mask=None, context_ids=None, context_mask=None):
        hidden, context = self.words(input_ids), self.words(context_ids)
        hidden = hidden + self.body(hidden, hidden, attention_mask)
        return self.looking(*((context, hidden) if self.swapped else (hidden, context)), context_mask)


class OfTorch(Reading):
    def __init__(self):
        super().__init__(nn.TransformerDecoderLayer(WIDTH, HEADS, 13, batch_first=True))

    def forward(self, input_ids, attention_mask=None, context_ids=None, context_mask=None):
        masks = (None if mask is None else mask == 0 for mask in (attention_mask, context_mask))
        names = ("tgt_key_padding_mask", "memory_key_padding_mask")
        return self.looking(self.words(input_ids), self.words(context_ids), **dict(zip(names, masks, strict=True)))


class Interfaced(tf.PreTrainedModel):
    config_class = tf.BertConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.inner = Reading(Registered())
        self.inner.looking.config = config
        self.post_init()

    def forward(self, **inputs):
        return self.inner(**inputs)


class Pooling(nn.Module):
    """A few latents attend to the text."""

    def __init__(self, latents):
        super().__init__()
        self.words, self.latents = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, latents, WIDTH))
        self.pooled = Attending()

    def forward(self, input_ids, attention_mask=None):
        return self.pooled(self.latents.expand(len(input_ids), -1, -1), self.words(input_ids), attention_mask)


def sharpened(make_model):
    torch.manual_seed(0)
    model = make_model().eval()
    for matrix in model.parameters():
        matrix.data.mul_(3 if matrix.dim() > 1 else 1)
    return model


def words_of(lengths, tokens, seed):
    words = torch.randint(3, WORDS, (len(lengths), tokens), generator=torch.Generator().manual_seed(seed))
    return words, (torch.arange(tokens) < torch.tensor(lengths)[:, None]).long()


def one_by_one(batch, lengths):
    """Each example without its padding; `lengths` of the items by name."""
    for i, one in enumerate(single_examples(batch)):
        yield {name: value[:, : lengths[name][i]] if name in lengths else value for name, value in one.items()}


def assert_padding_counts_for_nothing(model, batch, lengths):
    need = ("ae", "output_norm")
    together, alone = (hies.collect(model, of, need) for of in ([batch], one_by_one(batch, lengths)))
    for name in need:
        for site, found in together[name].items():
            assert found.isfinite().all()
            torch.testing.assert_close(found, alone[name][site], rtol=1e-4, atol=1e-5)


LENGTHS, CONTEXTS = (3, 7, 5), (7, 5, 2)
READERS = {
    "torch": OfTorch,
    "own": lambda: Reading(Attending()),
    "context first": lambda: Reading(Attending(swapped=True), swapped=True),
    "interface": lambda: Interfaced(tf.BertConfig(hidden_size=WIDTH, initializer_range=1.0)),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(("tokens", "masked"), [(7, True), (7, False), (11, True)])
def test_padding_before_a_context_of_any_length_does_not_count(kind, tokens, masked):
    (words, real), (context, shown) = words_of(LENGTHS, 7, 0), words_of(CONTEXTS, tokens, 1)
    batch = {"input_ids": words, "attention_mask": real, "context_ids": context}
    lengths = {"input_ids": LENGTHS, "attention_mask": LENGTHS}
    if masked:
        batch, lengths = (
            {**batch, "context_mask": shown},
            {**lengths, "context_ids": CONTEXTS, "context_mask": CONTEXTS},
        )
    assert_padding_counts_for_nothing(sharpened(READERS[kind]), batch, lengths)


@pytest.mark.parametrize("latents", [3, 7])  # fewer than the text has tokens, and by chance as many
def test_latents_that_attend_to_a_padded_text_all_count(latents):
    words, real = words_of(LENGTHS, 7, 0)
    lengths = {"input_ids": LENGTHS, "attention_mask": LENGTHS, "inputs": LENGTHS}
    batch = {"input_ids": words, "attention_mask": real}
    assert_padding_counts_for_nothing(sharpened(lambda: Pooling(latents)), batch, lengths)
    sizes = {"d_latents": 22, "d_model": 22, "qk_channels": 22, "v_channels": 22, "vocab_size": WORDS}
    sizes |= {"num_self_attends_per_block": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 2}
    config = tf.PerceiverConfig(**sizes, num_latents=latents, num_blocks=1, max_position_embeddings=13)
    perceiver = sharpened(lambda: tf.PerceiverForSequenceClassification(config))
    assert_padding_counts_for_nothing(perceiver, {"inputs": words, "attention_mask": real}, lengths)


@pytest.mark.parametrize("boxes", [5, 7])
def test_a_site_that_text_and_picture_take_turns_in_counts_no_padding(boxes):
    sizes = {"hidden_size": 22, "num_attention_heads": 2, "intermediate_size": 13, "visual_feat_dim": 3}
    config = tf.LxmertConfig(vocab_size=WORDS, l_layers=1, x_layers=1, r_layers=1, num_qa_labels=3, **sizes)
    model, (words, real) = sharpened(lambda: tf.LxmertForQuestionAnswering(config)), words_of(LENGTHS, 7, 0)
    batch = {"input_ids": words, "attention_mask": real}
    batch |= {"visual_feats": torch.randn(3, boxes, 3), "visual_pos": torch.rand(3, boxes, 4)}
    assert_padding_counts_for_nothing(model, batch, {"input_ids": LENGTHS, "attention_mask": LENGTHS})


def test_fluctuation_counts_no_padding_before_a_context():
    (words, real), (context, shown) = words_of(LENGTHS, 7, 0), words_of(CONTEXTS, 7, 1)
    batch = {"input_ids": words, "attention_mask": real, "context_ids": context, "context_mask": shown}
    lengths = {name: LENGTHS if name in ("input_ids", "attention_mask") else CONTEXTS for name in batch}
    model = sharpened(lambda: Reading(Attending()))
    found = [hies.collect(model, of, ("fluctuation",)) for of in ([batch], one_by_one(batch, lengths))]
    for site in ("body", "looking"):
        torch.testing.assert_close(found[0]["fluctuation"][site], found[1]["fluctuation"][site], rtol=1e-4, atol=1e-6)


def test_padding_that_nothing_tells_from_tokens_is_said_once():
    class Renamed(Reading):
        def forward(self, words, real_mask, context):
            return super().forward(words, real_mask, context)

    (words, real), (context, _) = words_of(LENGTHS, 7, 0), words_of(CONTEXTS, 11, 1)
    model = sharpened(lambda: Renamed(Attending()))
    with pytest.warns(UserWarning, match=r"queries of site 'looking' .*attention_mask") as said:
        hies.collect(model, [{"words": words, "real_mask": real, "context": context}], ("ae",))
    assert len(said) == 1


# --- encoders and decoders --------------------------------------------------------------------------------------------


class Around(nn.Module):
    """An encoder-decoder model under a name that says both."""

    def __init__(self, inner, name):
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, **inputs):
        return getattr(self, self.name)(**inputs)


class AroundOfTransformers(tf.PreTrainedModel):
    config_class = tf.T5Config
    _supports_sdpa = True

    def __init__(self, inner, name):
        super().__init__(inner.config)
        self.name = name
        self.add_module(name, inner)

    forward = Around.forward


@pytest.mark.parametrize("around", [Around, AroundOfTransformers])
@pytest.mark.parametrize("name", ["encoder_decoder", "decoder", "text_decoder_model"])
def test_an_encoder_is_one_whatever_the_model_around_it_is_called(name, around):
    inner, batch = make("t5").eval(), make_batch("t5")
    tokens = batch["input_ids"].shape[1]
    # As many labels as the text has tokens, so that the decoder's padding fits the encoder, too.
    batch["labels"] = torch.randint(3, 29, (3, tokens)).masked_fill(torch.arange(tokens) >= 3, -100)
    alone, found = (hies.collect(model, [batch], ("ae",))["ae"] for model in (inner, around(inner, name)))
    for site, values in alone.items():
        assert torch.equal(values, found[f"{name}.{site}"])


def test_the_encoder_inside_a_decoder_is_the_decoder():
    sizes = {"hidden_size": 22, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 13}
    encoder, decoder = tf.BertConfig(vocab_size=29, **sizes), tf.BertConfig(vocab_size=29, **sizes)
    config = tf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    model, (words, real) = tf.EncoderDecoderModel(config).eval(), words_of((7, 7), 7, 0)
    labels = words_of((3, 5), 7, 1)
    batch = {"input_ids": words, "attention_mask": real, "labels": labels[0].masked_fill(labels[1] == 0, -100)}
    alone = [{**one, "labels": one["labels"][:, :n]} for one, n in zip(single_examples(batch), (3, 5), strict=True)]
    found = [hies.collect(model, of, ("ae",))["ae"] for of in ([batch], alone)]
    assert any(site.startswith("decoder.bert.encoder") for site in found[0])
    for site, values in found[0].items():
        torch.testing.assert_close(values, found[1][site], rtol=1e-4, atol=1e-5)
