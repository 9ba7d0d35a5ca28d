"""The paper's equations against numbers worked out by hand."""

import math

import pytest
import torch

from hies import equations, select
from hies.errors import HiesError

NAN = math.nan


def test_importance_takes_the_absolute_value_of_each_example_before_the_mean():
    gradients = torch.tensor([[1.0, -2.0, 0.5], [-1.0, -4.0, 0.0]])
    torch.testing.assert_close(equations.head_importance(gradients), torch.tensor([1.0, 3.0, 0.25]))


def test_token_entropy_by_hand():
    weights = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]])
    expected = torch.tensor([math.log(2), 0.0, 1.5 * math.log(2)])
    torch.testing.assert_close(equations.token_entropy(weights), expected)


def test_entropy_from_log_sum_exp_is_that_of_the_softmax(generator):
    scores = torch.randn(3, 5, 11, generator=generator, dtype=torch.float64)
    weights, total = scores.softmax(-1), scores.logsumexp(-1)
    entropy = equations.entropy_from_log_sum_exp(total, (weights * scores).sum(-1))
    torch.testing.assert_close(entropy, -(weights * weights.log()).sum(-1))
    assert equations.entropy_from_log_sum_exp(torch.tensor(1.0), torch.tensor(1.0 + 1e-6)) == 0


@pytest.mark.parametrize("order", [0.5, 2.0, 7.0])
def test_renyi_entropy_from_log_sum_exp_is_that_of_the_softmax(generator, order):
    scores = torch.randn(3, 11, generator=generator, dtype=torch.float64)
    entropy = equations.renyi_entropy_from_log_sum_exp(scores.logsumexp(-1), (order * scores).logsumexp(-1), order)
    torch.testing.assert_close(entropy, (scores.softmax(-1) ** order).sum(-1).log() / (1 - order))


def test_relative_entropy_is_undefined_for_a_token_that_sees_one_key():
    entropy = torch.tensor([[[0.0, 0.0, math.log(2), math.log(4) * 1.000001]]])
    visible = torch.tensor([0, 1, 4, 4])
    expected = torch.tensor([[[NAN, NAN, 0.5, 1.0]]])
    torch.testing.assert_close(equations.relative_entropy(entropy, visible), expected, equal_nan=True)


def test_entropy_is_averaged_over_the_tokens_and_then_over_the_examples_that_count():
    relative = torch.tensor([[[0.2, 0.4, NAN]], [[0.9, NAN, NAN]], [[NAN, NAN, NAN]]])  # 3 examples, 1 head, 3 tokens
    examples = equations.mean_over_tokens(relative)
    torch.testing.assert_close(examples, torch.tensor([[0.3], [0.9], [NAN]]), equal_nan=True)
    torch.testing.assert_close(equations.mean_over_examples(examples), torch.tensor([0.6]))  # not 0.5, the pooled mean
    assert equations.mean_over_examples(examples[2:]).isnan().all()


def test_deficit_is_one_minus_entropy():
    torch.testing.assert_close(equations.attention_deficit(torch.tensor([0.0, 0.25, 1.0])), torch.tensor([1, 0.75, 0]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 6.0, 3.0], [0.0, 1.0, 0.25]),
        ([-1.0, 1.0], [0.0, 1.0]),
        ([0.1, 0.1, 0.1], [0.0, 0.0, 0.0]),
        ([5.0], [0.0]),
        ([2.0, NAN, 6.0], [0.0, NAN, 1.0]),
        ([3.0, NAN], [0.0, NAN]),
        ([NAN, NAN], [NAN, NAN]),
    ],
)
def test_min_max(values, expected):
    torch.testing.assert_close(equations.min_max(torch.tensor(values)), torch.tensor(expected), equal_nan=True)


def test_combination_by_hand():
    importance, entropy = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 0.2])
    torch.testing.assert_close(equations.combine(importance, entropy, 0.75), torch.tensor([0.25, 0.75, 0.575]))


@pytest.mark.parametrize(
    ("examples", "worth", "alpha"), [(1, 1, 0.5), (32, 1, 32 / 33), (1, 4, 0.2), (3, 0.25, 12 / 13)]
)
def test_the_more_examples_the_less_entropy_weighs(examples, worth, alpha):
    assert equations.shrunk_alpha(examples, worth) == pytest.approx(alpha)


def test_a_placebo_has_the_values_of_other_heads_or_numbers_of_its_own():
    entropy = torch.arange(7.0) / 7
    permuted, drawn = (equations.placebo_entropy(entropy, kind, seed=3) for kind in ("permuted", "random"))
    assert sorted(permuted.tolist()) == entropy.tolist() and permuted.tolist() != entropy.tolist()
    assert drawn.min() >= 0 and drawn.max() < 1 and not {*drawn.tolist()} & {*entropy.tolist()}
    for kind, first in (("permuted", permuted), ("random", drawn)):
        assert torch.equal(first, equations.placebo_entropy(entropy, kind, seed=3))
        assert not torch.equal(first, equations.placebo_entropy(entropy, kind, seed=4))
    assert equations.placebo_entropy(torch.tensor([0.3, NAN]), "random", 0).isnan().tolist() == [False, True]


@pytest.mark.parametrize("alpha", [1, -0.1, NAN, 2.5])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(HiesError, match="alpha"):
        equations.combine(torch.zeros(3), torch.zeros(3), alpha)


@pytest.mark.parametrize(
    ("ratio", "heads", "count"), [(0, 7, 0), (1, 7, 7), (0.5, 5, 2), (0.5, 7, 4), (0.3, 144, 43), (0.1, 4, 0)]
)
def test_removal_count(ratio, heads, count):
    assert equations.removal_count(ratio, heads) == count


@pytest.mark.parametrize("ratio", [-0.01, 1.01, NAN])
def test_a_ratio_outside_zero_and_one_is_refused(ratio):
    with pytest.raises(HiesError, match="ratio"):
        equations.removal_count(ratio, 10)


def test_keep_mask_by_hand():
    scores = torch.tensor([0.3, 0.1, 0.3, 0.9, 0.1])
    assert equations.keep_mask(scores, 0.2).tolist() == [True, False, True, True, True]  # of equals, the first goes
    assert equations.keep_mask(scores, 0.6).tolist() == [False, False, True, True, False]
    assert equations.keep_mask(scores, 0).all() and not equations.keep_mask(scores, 1).any()


@pytest.mark.parametrize("ratio", [0, 0.1, 0.3, 0.5, 0.77, 1])
def test_keep_mask_is_what_selection_takes_over_the_whole_model(generator, ratio):
    joined = torch.randint(0, 6, (16,), generator=generator).double()  # many ties
    scores = {"first": joined[:5], "second": joined[5:8], "third": joined[8:]}
    removed = select(scores, ratio)
    kept = [head not in removed.get(site, []) for site, values in scores.items() for head in range(len(values))]
    assert kept == equations.keep_mask(joined, ratio).tolist()
