"""How alpha is chosen: rules against hand-made tables, and jobs that use them on a real small model."""

import itertools

import numpy as np
import pytest

from hies.errors import HiesError
from hies.methods import HIES
from hies.methods.alpha import GRID, best_per_ratio, best_per_task
from hies.runs.quality import weighted_area

ALPHAS = (0.3, 0.9, 0.5)
NAN = float("nan")


def test_each_ratio_takes_its_best_alpha_and_ties_go_to_the_largest():
    quality = np.array([[80.0, 70.0, NAN], [80.0, 60.0, NAN], [79.0, 70.0, 10.0]])
    assert best_per_ratio(quality, ALPHAS) == [0.9, 0.5, 0.5]


def test_undefined_is_worse_than_anything():
    assert best_per_ratio(np.array([[NAN], [-5.0], [NAN]]), ALPHAS) == [0.9]


def test_the_weighted_area_weighs_each_ratio_with_itself():
    quality = np.array([[90.0, 80.0, 50.0], [70.0, NAN, 60.0]])
    expected = [(9 + 24 + 35) / 1.1, (7 + 0 + 42) / 1.1]
    np.testing.assert_allclose(weighted_area(quality, np.array([0.1, 0.3, 0.7])), expected)


def test_one_alpha_for_the_task_has_the_largest_weighted_area():
    quality = np.array([[99.0, 50.0], [80.0, 60.0], [80.0, 61.0]])
    assert best_per_task(quality, [0.1, 0.5], ALPHAS) == 0.5  # best at the ratio that weighs most
    assert best_per_task(np.flip(quality, 1), [0.1, 0.5], ALPHAS) == 0.3
    assert best_per_task(np.full((3, 2), 70.0), [0.1, 0.5], ALPHAS) == 0.9


def test_the_grid_is_finer_at_the_top_and_within_bounds():
    steps = [a - b for a, b in itertools.pairwise(GRID)]
    assert len(GRID) == 13 and GRID[0] == 0.99 and GRID[-1] == 0.1
    assert min(steps) > 0 and steps[0] == min(steps)


def test_a_word_for_alpha_needs_a_job():
    with pytest.raises(HiesError, match="give a number"):
        HIES(alpha="per_task").score(None)
    assert HIES(alpha="per_task", normalize="rank").at(0.3) == HIES(alpha=0.3, normalize="rank")


@pytest.mark.parametrize(
    ("knobs", "word"),
    [
        ({"alpha": "best"}, "per_ratio"),
        ({"alpha": 1.0}, "below 1"),
        ({"alpha": NAN}, "below 1"),
        ({"alphas": ()}, "alphas"),
        ({"alphas": (0.1, 0.1)}, "alphas"),
        ({"alphas": (0.1, 1.0)}, "alphas"),
        ({"tuning_seeds": 0}, "tuning_seeds"),
        ({"tuning_examples": 0}, "tuning_examples"),
    ],
)
def test_wrong_knobs_are_named(knobs, word):
    with pytest.raises(HiesError, match=word):
        HIES(**knobs)


def test_how_alpha_is_chosen_counts_only_where_it_is_chosen():
    assert HIES(alpha=0, alphas=(0.2,)).knobs == HIES(alpha=0.0).knobs == {"alpha": 0.0, "normalize": "global"}
    assert HIES(alpha="auto", alphas=(0.2,)).knobs != HIES(alpha="auto").knobs
    assert HIES(alpha="auto", tuning_seeds=1, tuning_examples=7).knobs == HIES(alpha="auto").knobs
    assert HIES(alpha="per_task", tuning_examples=7).knobs != HIES(alpha="per_task").knobs
