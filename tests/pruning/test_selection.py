"""Selection: exact counts, stable ties, nested masks, floors, schedules."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hies import HiesError, select
from hies.pruning.prunable_sites import PrunableSites
from hies.pruning.selection import Selection

HEADS = (11, 7, 13, 5)
RATIOS = [i / 36 for i in range(37)]


def random_scores(generator, *heads):
    """Scores of sites `a`, `b`, ... with the given numbers of heads."""
    return {chr(97 + i): torch.rand(n, generator=generator, dtype=torch.float64) for i, n in enumerate(heads)}


def count(removed):
    return sum(len(heads) for heads in removed.values())


def flat(removed):
    return {(site, head) for site, heads in removed.items() for head in heads}


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("heads", [(143,), (12,) * 12, (101, 3, 39), (2, 4, 8, 16)])
def test_exactly_the_rounded_share_goes_at_every_ratio(generator, heads, scope):
    scores, total = random_scores(generator, *heads), sum(heads)
    for i in range(total + 1):
        removed = select(scores, i / total, scope)
        assert count(removed) == i == len(flat(removed))
        assert all(heads == sorted(heads) and heads for heads in removed.values())
    for ratio in (0.1, 0.25, 0.333, 0.5, 0.9):
        assert count(select(scores, ratio, scope)) == round(ratio * total)


def test_the_lowest_of_the_whole_model_go():
    scores = {"a": torch.tensor([0.5, 0.1, 0.9]), "b": torch.tensor([0.3, 0.2])}
    assert select(scores, 0.4) == {"a": [1], "b": [1]}
    assert select(scores, 0.6) == {"a": [1], "b": [0, 1]}
    assert select(scores, 0) == {}
    assert select(scores, 1) == {"a": [0, 1, 2], "b": [0, 1]}


def test_equal_scores_go_by_position():
    scores = {"z": torch.zeros(3), "a": torch.tensor([0.0, -1.0, 0.0])}
    assert [flat(select(scores, i / 6)) for i in range(1, 6)] == [
        {("a", 1)},
        {("a", 1), ("z", 0)},
        {("a", 1), ("z", 0), ("z", 1)},
        {("a", 1), ("z", 0), ("z", 1), ("z", 2)},
        {("a", 1), ("z", 0), ("z", 1), ("z", 2), ("a", 0)},
    ]


def tied_scores(generator):
    """Random scores, half of the time with many ties."""
    scores = random_scores(generator, *HEADS)
    if torch.rand((), generator=generator) < 0.5:
        scores = {site: (4 * values).round() for site, values in scores.items()}
    return scores


@pytest.mark.parametrize("floor", [0, 2])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_are_nested_in_the_ratio(generator, scope, floor):
    selection = Selection(scope, floor)
    for _ in range(10):
        scores, smaller = tied_scores(generator), set()
        for ratio in RATIOS:
            if round(ratio * 36) > 36 - floor * len(HEADS):
                break
            larger = flat(selection.select(scores, ratio))
            assert smaller <= larger
            smaller = larger


def test_within_a_site_the_lowest_go_first(generator):
    for scope in ("global", "layer"):
        for floor in (0, 3):
            scores = random_scores(generator, *HEADS)
            for site, heads in select(scores, 0.5, scope, floor).items():
                assert set(heads) == set(scores[site].argsort()[: len(heads)].tolist())


def test_scope_layer_takes_the_same_share_of_every_site(generator):
    for _ in range(10):
        scores = tied_scores(generator)
        scores = {site: values + 10 * depth for depth, (site, values) in enumerate(scores.items())}
        for ratio in RATIOS:
            removed = select(scores, ratio, "layer")
            assert count(removed) == round(36 * ratio)
            for site, values in scores.items():
                assert abs(len(removed.get(site, [])) - ratio * len(values)) <= 1


def test_scope_layer_takes_turns_in_the_middle_of_each_share():
    scores = {"a": torch.arange(2.0), "b": torch.arange(4.0)}  # turns: a 1/4, 3/4; b 1/8, 3/8, 5/8, 7/8
    taken = [flat(select(scores, i / 6, "layer")) for i in range(7)]
    order = [next(iter(larger - smaller)) for smaller, larger in pairwise(taken)]
    assert order == [("b", 0), ("a", 0), ("b", 1), ("b", 2), ("a", 1), ("b", 3)]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_many_equal_scores_go_by_position(generator, scope):
    values = torch.randint(0, 2, (211,), generator=generator).double()
    zeros = (values == 0).nonzero().flatten().tolist()
    assert select({"a": values}, 50 / 211, scope) == {"a": zeros[:50]}


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("floor", [1, 2, 5])
def test_the_floor_keeps_the_best_heads_of_every_site(generator, scope, floor):
    scores = random_scores(generator, *HEADS)
    scores["b"] -= 5  # a site that would go first as a whole
    most = (36 - 4 * floor) / 36
    for ratio in (0.2, 0.4, most):
        if round(ratio * 36) > 36 - 4 * floor:
            continue
        removed = select(scores, ratio, scope, floor)
        assert count(removed) == round(ratio * 36)
        for site, values in scores.items():
            best = set(values.argsort(descending=True)[:floor].tolist())
            assert not best & set(removed.get(site, []))
    with pytest.raises(HiesError, match=f"min_heads_per_layer={floor} lets only {36 - 4 * floor} go"):
        select(scores, most + 1 / 36, scope, floor)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_refused(value):
    with pytest.raises(HiesError, match="not finite"):
        select({"a": torch.tensor([0.1, value])}, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1.2}, "ratio is 1.2"),
        ({"ratio": -0.1}, "ratio is -0.1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": 0.5, "scope": "model"}, "scope is 'model'"),
        ({"ratio": 0.5, "min_heads_per_layer": -1}, "min_heads_per_layer is -1"),
        ({"ratio": 0.5, "min_heads_per_layer": 0.5}, "min_heads_per_layer is 0.5"),
        ({"ratio": "0.5"}, "ratio is '0.5'"),
        ({"ratio": None}, "ratio is None"),
        ({"ratio": True}, "ratio is True"),
        ({"ratio": 0.5, "min_heads_per_layer": True}, "min_heads_per_layer is True"),
        ({"ratio": 0.5, "groups": {"a": True}}, r"groups\['a'\] is True"),
        ({"ratio": 0.5, "groups": {"a": 2.0}}, r"groups\['a'\] is 2.0"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(HiesError, match=message):
        select({"a": torch.rand(4)}, **arguments)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "scores is None; give {site: "),
        (torch.rand(5), r"scores is tensor\("),
        ({"a": torch.rand(1, 5)}, r"scores\['a'\] is 'Tensor \(1, 5\)'; give a torch tensor of one number"),
        ({"a": torch.rand(5, 1)}, r"scores\['a'\] is 'Tensor \(5, 1\)'"),
        ({"a": torch.tensor(0.5)}, r"scores\['a'\] is 'Tensor \(\)'"),
        ({"a": torch.rand(5), "b": np.zeros(3)}, r"scores\['b'\] is 'ndarray \(3,\)'"),
        ({"a": [0.5, 0.25]}, r"scores\['a'\] is 'list \[0.5, 0.25\]'"),
        ({"a": torch.rand(5) + 1j}, r"scores\['a'\] is 'Tensor \(5,\)'"),
    ],
)
def test_scores_are_one_number_for_each_head(scores, message):
    with pytest.raises(HiesError, match=f"^{message}"):
        select(scores, 0.5)


# --- iterative --------------------------------------------------------------------------------------------------------


class Scorer:
    """Scores that depend on what has gone, and a record of the calls."""

    def __init__(self, heads=HEADS):
        self.heads, self.calls = heads, []

    def __call__(self, removed):
        self.calls.append({site: list(heads) for site, heads in removed.items()})
        return random_scores(torch.Generator().manual_seed(count(removed)), *self.heads)


@pytest.mark.parametrize("selection", [Selection(), Selection("layer"), Selection("global", 2), Selection("layer", 3)])
def test_a_ratio_does_not_depend_on_the_others(selection):
    together = selection.select_iteratively(Scorer(), [0.5, 0.1, 0.25, 0.6], 0.1)
    for ratio, removed in together.items():
        assert selection.select_iteratively(Scorer(), [ratio], 0.1) == {ratio: removed}
        assert count(removed) == round(36 * ratio)
    masks = [flat(together[ratio]) for ratio in sorted(together)]
    assert all(smaller < larger for smaller, larger in pairwise(masks))


def test_every_scoring_sees_what_has_gone_so_far():
    scorer = Scorer()
    masks = Selection().select_iteratively(scorer, [0.35], 0.1)
    assert [count(call) for call in scorer.calls] == [0, 4, 7, 11]  # round(36 * 0.1 * i)
    for earlier, later in zip(scorer.calls, [*scorer.calls[1:], masks[0.35]], strict=True):
        fresh = random_scores(torch.Generator().manual_seed(count(earlier)), *HEADS)
        left = sorted(
            (float(v), s, h) for s, vs in fresh.items() for h, v in enumerate(vs) if h not in earlier.get(s, [])
        )
        worst = {(site, head) for _, site, head in left[: count(later) - count(earlier)]}
        assert flat(later) == flat(earlier) | worst


def test_scope_layer_keeps_the_shares_over_the_steps():
    for ratio, removed in Selection("layer").select_iteratively(Scorer(), [0.2, 0.5, 0.8], 0.1).items():
        assert count(removed) == round(36 * ratio)
        for site, heads in zip("abcd", HEADS, strict=True):
            assert abs(len(removed.get(site, [])) - ratio * heads) <= 1


def test_a_step_of_everything_is_one_shot():
    for selection in (Selection(), Selection("layer"), Selection("global", 2)):
        scorer = Scorer()
        masks = selection.select_iteratively(scorer, [0.1, 0.3, 0.7], 1)
        assert scorer.calls == [{}]
        assert masks == {ratio: selection.select(Scorer()({}), ratio) for ratio in (0.1, 0.3, 0.7)}


def test_ratios_on_the_steps_are_not_lost_to_rounding():
    for ratio, step in ((0.3, 0.1), (0.45, 0.15)):  # in floating point 3 * 0.1 > 0.3 and 3 * 0.15 < 0.45
        scorer = Scorer()
        Selection().select_iteratively(scorer, [ratio], step)
        assert [count(call) for call in scorer.calls] == [0, round(36 * step), round(36 * 2 * step)]


def test_the_floor_holds_at_the_end_of_an_iterative_schedule():
    masks = Selection("global", 2).select_iteratively(Scorer(), [28 / 36], 0.05)
    removed = masks[28 / 36]
    assert {site: n - len(removed[site]) for site, n in zip("abcd", HEADS, strict=True)} == dict.fromkeys("abcd", 2)
    with pytest.raises(HiesError, match="min_heads_per_layer"):
        Selection("global", 2).select_iteratively(Scorer(), [29 / 36], 0.05)


@pytest.mark.parametrize("step", [0, -0.1, 1.1, float("nan")])
def test_a_step_outside_its_range_is_refused(step):
    with pytest.raises(HiesError, match="step"):
        Selection().select_iteratively(Scorer(), [0.5], step)


# --- whole groups -----------------------------------------------------------------------------------------------------

GROUPED = (12, 6, 10, 5)
SIZES = {"a": 4, "b": 3, "c": 2}  # d: single heads
OTHER_SIZES = {"a": 6, "b": 2, "c": 5, "d": 1}


def is_whole(removed, sizes):
    """Every group is there or gone as a whole."""
    for site, heads in removed.items():
        size = sizes.get(site, 1)
        if set(heads) != {first + i for first in {h - h % size for h in heads} for i in range(size)}:
            return False
    return True


def by_hand(scores, ratio, sizes):
    """The leading groups by mean score, as many as come nearest to the rounded share, fewer if two are as near."""
    groups = []
    for depth, (site, values) in enumerate(scores.items()):
        size = sizes.get(site, 1)
        for first in range(0, len(values), size):
            mean = sum(values[first : first + size].tolist()) / size
            groups.append((mean, depth, first, [(site, first + i) for i in range(size)]))
    groups.sort()
    prefixes = [[head for group in groups[:n] for head in group[3]] for n in range(len(groups) + 1)]
    target = round(ratio * sum(map(len, scores.values())))
    return set(min(prefixes, key=lambda heads: (abs(len(heads) - target), len(heads))))


def test_whole_groups_go_by_the_mean_of_their_heads():
    scores = {"a": torch.tensor([1.0, 5.0, 3.0, 3.5]), "b": torch.tensor([9.0, 0.0])}  # means 3, 3.25 and 4.5
    groups = {"a": 2, "b": 2}
    assert select(scores, 2 / 6, groups=groups) == {"a": [0, 1]}
    assert select(scores, 4 / 6, groups=groups) == {"a": [0, 1, 2, 3]}
    assert select(scores, 1, groups=groups) == {"a": [0, 1, 2, 3], "b": [0, 1]}
    assert select(scores, 2 / 6, groups={"b": 2}) == {"a": [0, 2]}  # a site that is not named: single heads


def test_large_groups_are_not_dearer_than_small_ones():
    scores = {"a": torch.full((4,), 0.3), "b": torch.full((2,), 0.5)}
    assert select(scores, 4 / 6, groups={"a": 4, "b": 1}) == {"a": [0, 1, 2, 3]}


def test_the_number_of_whole_groups_is_the_nearest_and_the_smaller_of_two():
    scores = {"a": torch.arange(9.0)}
    found = [count(select(scores, i / 9, groups={"a": 3})) for i in range(10)]
    assert found == [0, 0, 3, 3, 3, 6, 6, 6, 9, 9]
    assert [count(select({"a": torch.arange(4.0)}, i / 4, groups={"a": 2})) for i in range(5)] == [0, 0, 2, 2, 4]


@pytest.mark.parametrize("sizes", [SIZES, OTHER_SIZES, {}])
def test_groups_go_as_by_hand(generator, sizes):
    for _ in range(5):
        scores = random_scores(generator, *GROUPED)
        for i in range(34):
            removed = select(scores, i / 33, groups=sizes)
            assert flat(removed) == by_hand(scores, i / 33, sizes)
            assert is_whole(removed, sizes)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("floor", [0, 1, 5])
def test_masks_of_groups_are_nested_and_whole(generator, scope, floor):
    scores, smaller = random_scores(generator, *GROUPED), set()
    stay = sum(-(-floor // SIZES.get(site, 1)) * SIZES.get(site, 1) for site in scores)
    for i in range(34 - stay):
        removed = select(scores, i / 33, scope, floor, SIZES)
        larger = flat(removed)
        assert smaller <= larger and is_whole(removed, SIZES)
        assert abs(len(larger) - i) <= 2
        assert all(len(values) - len(removed.get(site, [])) >= floor for site, values in scores.items())
        if scope == "layer" and not floor:
            for site, values in scores.items():
                assert abs(len(removed.get(site, [])) - len(values) * i / 33) <= SIZES.get(site, 1) + 1
        smaller = larger
    if floor:
        with pytest.raises(HiesError, match=f"min_heads_per_layer={floor} lets only {33 - stay} go"):
            select(scores, (34 - stay) / 33, scope, floor, SIZES)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_groups_of_one_are_heads(generator, scope):
    scores = random_scores(generator, *HEADS)
    ones = dict.fromkeys(scores, 1)
    for ratio in RATIOS:
        assert select(scores, ratio, scope, groups=ones) == select(scores, ratio, scope)


def test_equal_groups_go_by_position():
    scores = {"z": torch.tensor([0.0, 2.0, 1.0, 1.0]), "a": torch.ones(2)}
    groups = {"z": 2, "a": 2}
    assert [select(scores, i / 3, groups=groups) for i in (1, 2)] == [{"z": [0, 1]}, {"z": [0, 1, 2, 3]}]


def test_an_iterative_schedule_takes_whole_groups_too():
    scorer = Scorer(GROUPED)
    masks = Selection().select_iteratively(scorer, [0.2, 0.5, 0.8], 0.1, SIZES)
    steps = [*scorer.calls[1:], *masks.values()]
    assert all(is_whole(removed, SIZES) for removed in steps)
    assert all(flat(a) <= flat(b) for a, b in pairwise(scorer.calls)) and len(scorer.calls) == 8
    assert all(abs(count(removed) - round(33 * ratio)) <= 2 for ratio, removed in masks.items())
    alone = Selection().select_iteratively(Scorer(GROUPED), [0.5], 0.1, SIZES)
    assert alone[0.5] == masks[0.5]


@pytest.mark.parametrize(
    ("groups", "message"),
    [({"a": 3}, r"groups\['a'\] is 3; .*4 heads"), ({"a": 0}, r"groups\['a'\] is 0"), ({"x": 2}, "groups names 'x'")],
)
def test_groups_that_do_not_fit_are_named(groups, message):
    with pytest.raises(HiesError, match=message):
        select({"a": torch.rand(4)}, 0.5, groups=groups)


# --- some sites alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_the_ratio_is_a_share_of_the_heads_of_the_chosen_sites(generator, scope, ratio):
    scores = random_scores(generator, *HEADS)
    found = select(scores, ratio, scope, sites=["d", "b"])
    assert found == select({site: scores[site] for site in "bd"}, ratio, scope)
    assert count(found) == round(ratio * (7 + 5)) and set(found) <= {"b", "d"}
    assert select(scores, ratio, scope, sites=scores) == select(scores, ratio, scope)


def test_groups_of_other_sites_do_not_matter(generator):
    scores = random_scores(generator, *GROUPED)
    chosen = [site for site, size in SIZES.items() if size > 1][:1]
    found = select(scores, 0.5, groups=SIZES, sites=chosen)
    assert list(found) == chosen and is_whole(found, SIZES)
    assert found == select({site: scores[site] for site in chosen}, 0.5, groups={chosen[0]: SIZES[chosen[0]]})


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["b", "x"], r"^sites is 'x'; the sites that have scores are a, b\.$"),
        ("a", "^sites is 'a'; give names of sites"),
        (3, "^sites is 3; give names of sites"),
        ([], r"^sites is \[\]; no heads can be removed\.$"),
        (PrunableSites({}, {"a": "layers share its keys", "b": "layers share its keys"}, torch.nn.Identity()),
         r"^sites is \[\]; no heads can be removed: layers share its keys\.$"),
    ],
)  # fmt: skip
def test_sites_that_do_not_fit_are_named(sites, message):
    with pytest.raises(HiesError, match=message):
        select({"a": torch.rand(4), "b": torch.rand(2)}, 0.5, sites=sites)
