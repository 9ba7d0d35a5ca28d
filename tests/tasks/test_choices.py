"""The loss of the right option among several, against probabilities computed by hand."""

import math

import numpy as np
import pytest

from hies.tasks.choices import chosen_options, option_losses

SHARES = ((0.02, 0.005, 0.03), (0.5, 0.25))  # the probability of each option, of two documents
TOKENS = (np.array([3, 5, 2]), np.array([1, 7]))
SCORES = [np.log(shares) for shares in SHARES]


def test_losses_are_those_of_the_probabilities():
    found = option_losses(SCORES, TOKENS, [1, 0])
    assert found["losses"] == pytest.approx([math.log(0.055 / 0.005), math.log(0.75 / 0.5)])
    assert found["token_losses"] == pytest.approx([-math.log(0.005) / 5, math.log(2)])
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_options_that_no_float_can_hold_the_probability_of_have_a_loss():
    found = option_losses([np.array([-2000.0, -2003.0])], [np.array([4, 4])], [1])
    assert found["losses"] == pytest.approx([3 + math.log1p(math.exp(-3))])


def test_a_model_that_gives_every_option_no_chance_has_no_loss():
    found = option_losses([np.array([-math.inf, -math.inf])], [np.array([2, 3])], [0])
    assert np.isnan(found["losses"]).all() and np.isinf(found["token_losses"]).all()


def test_the_option_chosen_is_the_likeliest_or_that_by_its_characters():
    found = chosen_options(SCORES, [[9, 2, 1], [1, 100]])
    assert found["predictions"].tolist() == [2, 0] and found["norm"].tolist() == [0, 1]
    assert [*chosen_options(SCORES)] == ["predictions"]
