"""Properties of `select`, `masked`, `prune` and `attention_entropy`, whatever they are given: right, or refused."""

import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from tiny_models import make, make_batch

import hies
from hies import HiesError

SMALL = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
FEWER = hypothesis.settings(SMALL, max_examples=12)
NUMBERS = st.sampled_from([-1.0, 0.0, 0.25, 0.5]) | st.floats(-1e30, 1e30)  # with ties
SCORES = st.dictionaries(st.text("abc", min_size=1), st.lists(NUMBERS, max_size=7), max_size=4)
STRANGE = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text("ab", max_size=2)
STRANGE = STRANGE | st.lists(STRANGE, max_size=2) | st.sampled_from([torch.zeros(1, 3), np.zeros(3), torch.zeros(())])


def flat(removed):
    return {(site, head) for site, heads in removed.items() for head in heads}


# --- select -----------------------------------------------------------------------------------------------------------


@SMALL
@hypothesis.given(SCORES, st.floats(0, 1), st.floats(0, 1), st.sampled_from(["global", "layer"]), st.integers(0, 3))
def test_selections_are_exact_nested_and_of_the_lowest(values, one, two, scope, floor):
    scores = {site: torch.tensor(numbers, dtype=torch.float64) for site, numbers in values.items()}
    total, most = sum(map(len, scores.values())), sum(max(len(one) - floor, 0) for one in scores.values())
    smaller, larger = sorted((one, two))
    if round(larger * total) > most:
        with pytest.raises(HiesError, match=f"lets only {most} go"):
            hies.select(scores, larger, scope, floor)
        return
    removed = hies.select(scores, larger, scope, floor)
    assert len(flat(removed)) == round(larger * total)
    assert flat(hies.select(scores, smaller, scope, floor)) <= flat(removed)
    for site, heads in removed.items():
        kept = [value for head, value in enumerate(values[site]) if head not in heads]
        assert heads == sorted(heads) and len(kept) >= min(floor, len(values[site]))
        assert max(values[site][head] for head in heads) <= min(kept, default=math.inf)
    if scope == "global" and not floor:
        kept = [
            value for site in values for head, value in enumerate(values[site]) if (site, head) not in flat(removed)
        ]
        assert all(values[site][head] <= min(kept, default=math.inf) for site, head in flat(removed))


@SMALL
@hypothesis.given(st.dictionaries(st.text("ab"), STRANGE, max_size=2) | STRANGE, STRANGE, STRANGE, STRANGE)
def test_strange_arguments_of_select_are_refused_in_a_sentence(scores, ratio, scope, floor):
    refused_or_right(lambda: hies.select(scores, 0.5 if ratio is None else ratio))
    refused_or_right(lambda: hies.select({"a": torch.arange(3.0)}, 0.5, scope, floor))
    refused_or_right(lambda: hies.select({"a": torch.arange(3.0)}, 0.5, groups=scores))


def refused_or_right(call):
    """What a call gives, None where it is refused; any other exception fails."""
    try:
        return call()
    except HiesError as error:
        assert "\n\n" not in str(error)
        return None


# --- masked and prune -------------------------------------------------------------------------------------------------

BERT = "bert.encoder.layer.{}.attention.self"
SITES = st.sampled_from([BERT.format(1), "bert", "", None, 3])
REMOVED = st.fixed_dictionaries({}, optional={BERT.format(layer): st.sets(st.integers(0, 4)) for layer in range(2)})


@torch.no_grad()
def logits_of(model):
    return model(**make_batch("bert")).logits


@FEWER
@hypothesis.given(REMOVED)
def test_masked_and_pruned_models_are_those_whose_columns_are_zero(removed):
    model, zeroed = make("bert").eval(), make("bert").eval()
    for site, heads in removed.items():
        weight = zeroed.get_submodule(site.replace(".self", ".output.dense")).weight.data  # [hidden, heads * width]
        weight.unflatten(1, (5, -1))[:, sorted(heads)] = 0
    expected, dense = logits_of(zeroed), logits_of(model)
    with hies.masked(model, removed):
        torch.testing.assert_close(logits_of(model), expected, atol=1e-5, rtol=1e-5)
    small = hies.prune(model, removed)
    torch.testing.assert_close(logits_of(small), expected, atol=1e-5, rtol=1e-5)
    assert hies.pruned_heads(small) == {site: sorted(heads) for site, heads in removed.items() if heads}
    assert torch.equal(logits_of(model), dense)


@SMALL
@hypothesis.given(st.dictionaries(SITES, STRANGE, max_size=2) | STRANGE)
def test_strange_heads_are_refused_in_a_sentence_and_leave_the_model_alone(removed):
    model = make("bert").eval()
    dense = logits_of(model)

    def mask():
        with hies.masked(model, removed):
            return logits_of(model)

    refused_or_right(mask)
    refused_or_right(lambda: hies.prune(model, removed))
    assert torch.equal(logits_of(model), dense)


# --- attention_entropy ------------------------------------------------------------------------------------------------

ORDERS = st.sampled_from([1, 0.5, 2.0, math.inf]) | st.floats(0.9, 1.1) | st.floats(0.01, 50)
PLACES = st.sampled_from([(), (0,), (1,), (0, 1), (2,)])  # dimensions of a mask that are 1


def plain_entropy(scores, order):
    """Entropy of a softmax in float64, [..., keys] -> [...]; zero where nothing is seen."""
    logs = scores.log_softmax(-1)
    weights, surprise = logs.exp(), -logs.masked_fill(logs == -torch.inf, 0)
    if abs(order - 1) < 1e-5:  # to first order in order - 1
        mean = (weights * surprise).sum(-1)
        return (mean - (order - 1) / 2 * ((weights * surprise.square()).sum(-1) - mean.square())).nan_to_num(0)
    if order == math.inf:
        return -logs.amax(-1).nan_to_num(0)
    return ((order * logs).logsumexp(-1) / (1 - order)).nan_to_num(0)


@SMALL
@hypothesis.given(
    sizes=st.tuples(*[st.integers(0, 3)] * 2, st.integers(0, 7), st.integers(0, 9), st.integers(1, 5)),
    group=st.integers(1, 2), order=ORDERS, ones=st.none() | PLACES, causal=st.booleans(), size=st.sampled_from([1, 9]),
    bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_entropies_are_those_of_the_softmax(sizes, group, order, ones, causal, size, bias, seed):
    generator = torch.Generator().manual_seed(seed)
    batch, key_heads, queries, keys, width = sizes
    query = size * torch.randn(batch, group * key_heads, queries, width, generator=generator)
    key = torch.randn(batch, key_heads, keys, width, generator=generator)
    shape = (batch, group * key_heads, queries, keys)
    mask = None
    if ones is not None:
        mask = torch.rand([1 if place in ones else n for place, n in enumerate(shape)], generator=generator) < 0.6
    added = torch.randn(shape[1:], generator=generator) if bias else None
    found = refused_or_right(lambda: hies.attention_entropy(query, key, mask, causal=causal, order=order, bias=added))
    if causal and mask is not None:
        assert found is None
        return
    scores = query.double() @ key.double().repeat_interleave(group, 1).mT * width**-0.5 + (
        0 if added is None else added
    )
    visible = torch.ones(queries, keys, dtype=torch.bool).tril() if causal else mask
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    expected = plain_entropy(scores, order) if keys else torch.zeros(shape[:3], dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)


@SMALL
@hypothesis.given(STRANGE, STRANGE, STRANGE, st.sampled_from(["query", "key", "mask", "bias", "sinks", "order"]))
def test_strange_arguments_of_entropies_are_refused_in_a_sentence(one, two, three, name):
    tensors = {"query": torch.ones(1, 2, 3, 5), "key": torch.ones(1, 2, 3, 5)}
    refused_or_right(lambda: hies.attention_entropy(**{**tensors, name: one}))
    refused_or_right(lambda: hies.attention_entropy(one, two, mask=three))
