"""How alpha is chosen: rules against hand-made tables, and jobs that use them on a real small model."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hies import Statistics, equations
from hies.errors import HiesError
from hies.heads.sites import Site
from hies.methods import HIES
from hies.methods.alpha import GRID, best_per_ratio, best_per_task
from hies.methods.planning import Draw
from hies.pruning.selection import Selection
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
        ({"alpha": None}, "alpha is None; it must be at least 0 and below 1"),
        ({"alpha": NAN}, "below 1"),
        ({"alphas": ()}, "alphas"),
        ({"alphas": (0.1, 0.1)}, "alphas"),
        ({"alphas": (0.1, 1.0)}, "alphas"),
        ({"tuning_seeds": 0}, "tuning_seeds"),
        ({"tuning_examples": 0}, "tuning_examples"),
        ({"prior_examples": 0}, "prior_examples is 0; it must be positive"),
        ({"placebo": "sugar"}, "placebo is 'sugar'; use none, permuted or random"),
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
    assert HIES(alpha="shrink", alphas=(0.2,), tuning_examples=7).knobs == HIES(alpha="shrink").knobs
    assert HIES(alpha="shrink").knobs == {"alpha": "shrink", "normalize": "global", "prior_examples": 1.0}


def test_older_run_ids_know_nothing_of_newer_knobs():
    for alpha in (0.9, "auto", "per_ratio"):
        assert HIES(alpha, seed=3, prior_examples=7).knobs == HIES(alpha).knobs
        assert not {"seed", "prior_examples", "placebo"} & {*HIES(alpha).knobs}
    assert HIES(placebo="random", seed=3).knobs == HIES().knobs | {"placebo": "random", "seed": 3}


STATISTICS = Statistics(
    {"a": 3, "b": 2},
    4,
    {
        "his": {"a": torch.tensor([[0.0, 1.0, 4.0]]).double(), "b": torch.tensor([[2.0, 3.0]]).double()},
        "ae": {"a": torch.tensor([[0.2, 0.6, 0.4]]).double(), "b": torch.tensor([[0.7, 0.9]]).double()},
    },
)


def test_a_shrinking_alpha_follows_from_the_calibration_examples():
    for worth, alpha in ((1, 4 / 5), (12, 1 / 4)):
        shrunk, fixed = HIES("shrink", prior_examples=worth)(STATISTICS), HIES(alpha)(STATISTICS)
        assert all(torch.equal(shrunk[site], fixed[site]) for site in fixed)


def test_a_shrinking_alpha_is_in_the_rows_and_takes_no_search():
    model = SimpleNamespace(
        sites={name: Site(name, heads, heads, 4, 2, 5, 5) for name, heads in STATISTICS.heads.items()},
        statistics=lambda need, seed, size, removed=None: STATISTICS,
    )
    plan = HIES("shrink").plan(model, Draw(seed=0, size=4), Selection(), [0.4])
    assert plan.notes == {0.0: {"alpha_used": None}, 0.4: {"alpha_used": 0.8}} and HIES("shrink").steps([0.4]) == 0
    assert plan.models[0.4] == HIES(0.8).plan(model, Draw(0, 4), Selection(), [0.4]).models[0.4]


def test_entropy_on_the_scale_of_its_layer_and_importance_on_that_of_the_model():
    found = HIES(0.5, normalize="layer_entropy")(STATISTICS)
    by_hand = {"a": [(0 + 1) / 2, (0.25 + 0) / 2, (1 + 0.5) / 2], "b": [(0.5 + 1) / 2, (0.75 + 0) / 2]}
    assert {site: values.tolist() for site, values in found.items()} == {
        site: pytest.approx(values) for site, values in by_hand.items()
    }


def test_a_placebo_stands_in_the_place_of_entropy_over_the_whole_model():
    placebo = equations.placebo_entropy(torch.tensor([0.2, 0.6, 0.4, 0.7, 0.9]).double(), "permuted", 2)
    found = HIES(0.0, placebo="permuted", seed=2)(STATISTICS)
    expected = 1 - equations.min_max(placebo)
    torch.testing.assert_close(torch.cat([*found.values()]), expected)


def test_processes_side_by_side_look_at_masks_in_orders_of_their_own_and_choose_alike(monkeypatch):
    def searched(process: int) -> tuple[dict[float, dict], list[str]]:
        asked: list[str] = []
        model = SimpleNamespace(
            sites={name: Site(name, heads, heads, 4, 2, 5, 5) for name, heads in STATISTICS.heads.items()},
            statistics=lambda need, seed, size, removed=None: STATISTICS,
            counter=SimpleNamespace(naive=0),
            calibration_loss=lambda removed, seed, size: asked.append(str(removed)) or len(str(removed)) % 7,
        )
        monkeypatch.setattr("os.getpid", lambda: process)
        plan = HIES("auto").plan(model, Draw(seed=0, size=4), Selection(), [0.2, 0.4, 0.6])
        return plan.notes, asked

    (chosen, asked), (same, other_order) = searched(11), searched(12)
    assert chosen == same and len(asked) == 3 * len(GRID)
    assert sorted(asked) == sorted(other_order) and asked != other_order
