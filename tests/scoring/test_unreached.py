"""Heads behind torch.no_grad() or detach() have no gradient, and a warning says so where the loss depends on them."""

import warnings

import pytest
import torch
from tiny_models import make, make_batch
from torch import nn

import hies


class Frozen(nn.Module):
    """A BERT on top of the embeddings that another one makes without gradients."""

    def __init__(self, way):
        super().__init__()
        self.tower, self.top, self.way = make("bert").bert, make("bert"), way

    def forward(self, input_ids, attention_mask=None, labels=None):
        with torch.set_grad_enabled(self.way != "no_grad" and torch.is_grad_enabled()):
            states = self.tower(input_ids, attention_mask=attention_mask).last_hidden_state
        states = states * 0 if self.way == "unused" else states
        states = states.detach() if self.way == "detach" else states
        return {"logits": self.top(inputs_embeds=states, attention_mask=attention_mask).logits}


def batch():
    return {name: value for name, value in make_batch("bert").items() if name != "token_type_ids"}


@pytest.mark.parametrize("need", [("his", "ae"), ("his_token",)])
@pytest.mark.parametrize("way", ["no_grad", "detach"])
def test_heads_without_a_gradient_on_which_the_loss_depends_are_said(way, need):
    model = Frozen(way).eval()
    with pytest.warns(UserWarning, match=r"tower\.encoder\.layer\.0\.attention\.self' and 1 more.*HIS is 0"):
        statistics = hies.collect(model, [batch()], need)
    assert all((values == 0).all() == site.startswith("tower") for site, values in statistics.his.items())


@pytest.mark.parametrize("way", ["plain", "unused"])
def test_nothing_is_said_where_gradients_reach_all_that_counts(way):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statistics = hies.collect(Frozen(way).eval(), [batch()])
    tower = [values for site, values in statistics.his.items() if site.startswith("tower")]
    assert len(tower) == 2 and all((values == 0).all() == (way == "unused") for values in tower)
