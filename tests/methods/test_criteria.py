"""One contract for every criterion, and the direction and the formula of each."""

import copy
import dataclasses
import math

import pytest
import torch
from tiny_models import make, make_batch

from hies import HiesError, Statistics, collect, select
from hies.heads.sites import join, split
from hies.methods import AD, AE, HIES, HIS, L2, METHODS, Random, ScoringMethod
from hies.methods.llm_pruner.block import KEY_HEAD_OF, MATRICES, TAYLOR_KINDS
from hies.scoring.calibration_pass import OF_THE_PASS
from hies.scoring.statistics import METHOD_STATISTICS

SCORING = [name for name, method in METHODS.items() if issubclass(method, ScoringMethod)]
HEADS = {"a": 3, "b": 2}
# HIS: a = 2, 6, 4; b = 10, 0. The signs would cancel if the mean came before the absolute value.
GRADIENT = {"a": [[1.0, -5.0, 4.0], [-3.0, 7.0, -4.0]], "b": [[-10.0, 0.0], [10.0, 0.0]]}
# AE: a = 0.3, 0.5, 0.9; b = 0.7, 0.4.
ENTROPY = {"a": [[0.2, 0.6, 0.9], [0.4, 0.4, 0.9]], "b": [[0.7, math.nan], [0.7, 0.4]]}
NORM = {"a": [3.0, 1.0, 2.0], "b": [5.0, 4.0]}
PLACES = {"a": [2.0, 0.0, 4.0], "b": [1.0, 3.0]}


def tensors(values):
    return {site: torch.tensor(rows, dtype=torch.float64) for site, rows in values.items()}


@pytest.fixture
def statistics():
    taylor = {f"taylor/{matrix}/{kind}": tensors(NORM) for matrix in MATRICES for kind in TAYLOR_KINDS}
    groups = {KEY_HEAD_OF: tensors({"a": [0, 1, 2], "b": [0, 1]})}
    others = {"output_norm": tensors(ENTROPY), "greedy": tensors(PLACES), "fluctuation": tensors(NORM)}
    others |= taylor | groups
    own = {"his": tensors(GRADIENT), "ae": tensors(ENTROPY), "l2": tensors(NORM)}
    return Statistics(dict(HEADS), 2, own | others)


@pytest.fixture(scope="module")
def measured():
    return collect(make("bert"), [make_batch("bert")], need=("his", "ae", "l2"))


@pytest.mark.parametrize("name", SCORING)
def test_every_criterion_keeps_the_contract(name, statistics):
    criterion, before = METHODS[name](), copy.deepcopy(statistics)
    scores = criterion(statistics)
    assert criterion.name == name and criterion.need <= {*OF_THE_PASS, *METHOD_STATISTICS}
    assert {site: len(values) for site, values in scores.items()} == HEADS
    assert list(scores) == list(HEADS)
    assert all(values.dtype == torch.float64 and values.isfinite().all() for values in scores.values())
    for site, values in criterion(statistics).items():
        assert torch.equal(values, scores[site])
    for kind in before:
        for site, values in before[kind].items():
            torch.testing.assert_close(statistics[kind][site], values, atol=0, rtol=0, equal_nan=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        criterion.name = "other"


@pytest.mark.parametrize("name", SCORING)
def test_a_criterion_needs_what_it_declares_and_no_more(name):
    criterion, batch = METHODS[name](), make_batch("bert")
    scores = criterion(collect(make("bert"), [batch], need=criterion.need))
    assert {len(values) for values in scores.values()} == {5}
    for missing in criterion.need:
        with pytest.raises(HiesError, match=f"'{missing}' was not collected"):
            criterion(collect(make("bert"), [batch], need=criterion.need - {missing}))


@pytest.mark.parametrize(
    ("criterion", "order"),
    [
        (HIS(), ["b1", "a0", "a2", "a1", "b0"]),  # the smallest importance goes first
        (AE(), ["a2", "b0", "a1", "b1", "a0"]),  # the largest entropy
        (AD(), ["a0", "b1", "a1", "b0", "a2"]),  # the smallest entropy
        (L2(), ["a1", "a2", "a0", "b1", "b0"]),  # the smallest weights
        (HIES(alpha=0), ["a2", "b0", "a1", "b1", "a0"]),  # as AE
        (HIES(alpha=0.999999), ["b1", "a0", "a2", "a1", "b0"]),  # as HIS
    ],
)
def test_direction(criterion, order, statistics):
    scores = criterion(statistics)
    for i in range(1, 6):
        removed = select(scores, i / 5)
        assert {f"{site}{head}" for site, heads in removed.items() for head in heads} == set(order[:i])


@pytest.mark.parametrize("name", ["his", "ae", "l2"])
def test_values_by_hand(name, statistics):
    expected = {
        "his": {"a": [2.0, 6.0, 4.0], "b": [10.0, 0.0]},
        "ae": {"a": [0.7, 0.5, 0.1], "b": [0.3, 0.6]},
        "l2": NORM,
    }
    torch.testing.assert_close(METHODS[name]()(statistics), tensors(expected[name]))


def test_deficit_baseline_by_hand(statistics):
    torch.testing.assert_close(AD()(statistics), tensors({"a": [-0.7, -0.5, -0.1], "b": [-0.3, -0.6]}))


# (normalised HIS, normalised AE) of each head
NORMALISED = {
    "global": {
        "a": [(0.2, 0.0), (0.6, 1 / 3), (0.4, 1.0)],
        "b": [(1.0, 2 / 3), (0.0, 1 / 6)],
    },
    "layer": {
        "a": [(0.0, 0.0), (1.0, 1 / 3), (0.5, 1.0)],
        "b": [(1.0, 1.0), (0.0, 0.0)],
    },
    "rank": {
        "a": [(0.25, 0.0), (0.75, 0.5), (0.5, 1.0)],
        "b": [(1.0, 0.75), (0.0, 0.25)],
    },
}


@pytest.mark.parametrize("alpha", [0, 0.3, 0.9])
@pytest.mark.parametrize("how", NORMALISED)
def test_hies_by_hand(how, alpha, statistics):
    expected = {
        site: [alpha * his + (1 - alpha) * (1 - ae) for his, ae in pairs] for site, pairs in NORMALISED[how].items()
    }
    torch.testing.assert_close(HIES(alpha=alpha, normalize=how)(statistics), tensors(expected))


def test_hies_ranks_count_equal_scores_half():
    ones = torch.ones(1, 4, dtype=torch.float64)
    his = torch.tensor([[3.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    statistics = Statistics({"a": 4}, 1, {"his": {"a": his}, "ae": {"a": 0.5 * ones}})
    scores = HIES(alpha=0.5, normalize="rank")(statistics)["a"]
    torch.testing.assert_close(2 * scores - 0.5, torch.tensor([1, 1 / 6, 1 / 6, 2 / 3], dtype=torch.float64))


@pytest.mark.parametrize("how", NORMALISED)
def test_hies_of_heads_that_are_all_alike(how):
    same = torch.full((2, 3), 0.5, dtype=torch.float64)
    scores = HIES(alpha=0.25, normalize=how)(Statistics({"a": 3}, 2, {"his": {"a": same}, "ae": {"a": same}}))["a"]
    assert scores.isfinite().all() and len(scores.unique()) == 1


@pytest.mark.parametrize("alpha", [1, -0.1, 1.5, math.nan])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(HiesError, match=r"^alpha is"):
        HIES(alpha=alpha)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(HiesError, match=r"normalize is 'softmax'; use global, layer, rank or layer_entropy"):
        HIES(normalize="softmax")


@pytest.mark.parametrize(
    "criterion", [AE(), AD(), HIES(), HIES(normalize="layer"), HIES(normalize="rank")], ids=lambda c: str(c)
)
def test_an_undefined_score_names_its_head(criterion, statistics):
    statistics["ae"]["b"][:, 1] = math.nan
    with pytest.raises(HiesError, match="head 1 of site 'b'"):
        criterion(statistics)


def test_random_is_seeded_and_differs_between_seeds_and_sites(statistics):
    one, same, other = Random(seed=3)(statistics), Random(seed=3)(statistics), Random(seed=4)(statistics)
    assert all(torch.equal(one[site], same[site]) for site in HEADS)
    assert not torch.equal(join(one), join(other)) and len(join(one).unique()) == 5
    assert ((join(one) >= 0) & (join(one) < 1)).all()
    before = torch.get_rng_state()
    Random()(statistics)
    assert torch.equal(torch.get_rng_state(), before)


GOLDEN = {
    "random": [
        [0.970053, 0.7078199, 0.4593829, 0.9207477, 0.6450241],
        [0.7911479, 0.1786062, 0.3511076, 0.5813409, 0.2882359],
    ],
    "ae": [
        [0.4109634, 0.4478387, 0.3619357, 0.4672832, 0.363539],
        [0.2810207, 0.2434079, 0.2773525, 0.2140204, 0.1967657],
    ],
    "hies": [
        [0.6195218, 0.9640606, 0.4469571, 0.5, 0.5801426],
        [0.3595919, 0.2341203, 0.5647736, 0.2822269, 0.3242691],
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_scores_of_a_seeded_model_have_not_changed(name, measured):
    knobs = {"alpha": 0.5} if name == "hies" else {}
    found = torch.stack(list(METHODS[name](**knobs)(measured).values())).double()
    torch.testing.assert_close(found, torch.tensor(GOLDEN[name], dtype=torch.float64), rtol=1e-4, atol=0)


def test_join_and_split_are_inverse(statistics):
    joined = join(statistics.his)
    assert joined.tolist() == [2, 6, 4, 10, 0]
    assert {site: values.tolist() for site, values in split(joined, HEADS).items()} == {"a": [2, 6, 4], "b": [10, 0]}
