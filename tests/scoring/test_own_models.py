"""What a model of one's own computes is not told from its first example alone, and what it is given stays as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_models import make, make_batch
from torch import nn

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
