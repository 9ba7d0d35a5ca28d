"""One contract for everything that prunes: what callers ask a method, whatever it is."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from hies import Statistics
from hies.errors import HiesError, ParameterError
from hies.heads.sites import Site
from hies.methods import HIES, HIS, METHODS, LLMPrunerBlock, ScoringMethod, SliceGPT
from hies.methods.planning import AppliedMethod, Draw, MaskedHeads
from hies.pruning.selection import Selection

OWN_WAY = {"llm_pruner_block", "llm_pruner_channel", "slicegpt"}  # they take no rules of selection
GRADIENTS = {"a": torch.tensor([[1.0, -5.0, 4.0]]).double(), "b": torch.tensor([[-10.0, 0.5]]).double()}
ENTROPIES = {"a": torch.tensor([[0.2, 0.6, 0.9]]).double(), "b": torch.tensor([[0.7, 0.4]]).double()}


class Model:
    """A model on a task, of five heads, whose statistics do not depend on the draw; quality falls with the heads."""

    def __init__(self):
        self.counter, self.looked = SimpleNamespace(naive=0), []
        self.sites = {"a": Site("a", 3, 3, 4, 2, 5, 5), "b": Site("b", 2, 2, 4, 2, 5, 5)}

    def statistics(self, need, seed, size, removed=None):
        self.looked.append((sorted(need), seed, size, removed))
        return Statistics({"a": 3, "b": 2}, 1, {"his": GRADIENTS, "ae": ENTROPIES}, seconds=7.0)

    def calibration_loss(self, removed, seed, size):
        return float(sum(map(len, removed.values()))) + (2 in removed.get("a", []))

    def evaluate(self, removed):
        return removed


@pytest.mark.parametrize("name", METHODS)
def test_every_method_answers_for_itself(name):
    method = METHODS[name]()
    assert method.name == name and method.removes_heads == isinstance(method, ScoringMethod)
    assert method.steps([0.5]) == 0
    method.check_selection(Selection())
    other = Selection(scope="layer")
    if name in OWN_WAY:
        with pytest.raises(ParameterError, match=f"scope is 'layer'; {name} has its own way .* leave it at 'global'"):
            method.check_selection(other)
    else:
        method.check_selection(other)


def test_a_scoring_method_plans_masks_and_scores_once():
    model = Model()
    plan = HIS().plan(model, Draw(seed=3, size=8), Selection(), [0.4, 0.2])
    assert plan.models == {0.0: MaskedHeads(), 0.2: MaskedHeads({"b": [1]}), 0.4: MaskedHeads({"a": [0], "b": [1]})}
    assert model.looked == [(["his"], 3, 8, None)] and plan.seconds == 7
    assert plan.arrays["scores"].tolist() == plan.arrays["his"].tolist() == [1, 5, 4, 10, 0.5]
    assert plan.arrays["sites"].tolist() == ["a", "b"] and plan.arrays["heads"].tolist() == [3, 2]
    assert plan.models[0.2].evaluated(model) == {"b": [1]}


@dataclass(frozen=True)
class Given(ScoringMethod):
    """A method from outside that returns what it is given."""

    name = "given"
    needs = ("his",)
    scores: object = None

    def score(self, statistics):
        return self.scores


def test_scores_come_in_the_order_of_the_sites_and_in_float64():
    found = Given({"b": torch.tensor([4, 5]), "a": torch.ones(3, requires_grad=True)})(Model().statistics((), 0, 0))
    assert [*found] == ["a", "b"] and found["b"].tolist() == [4, 5]
    assert all(values.dtype == torch.float64 and not values.requires_grad for values in found.values())
    assert Given().need == frozenset({"his"})


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (torch.ones(5), r"gave a Tensor; score returns \{site: \[heads\]\}"),
        ({"a": torch.ones(3)}, "gave no scores for 'b'"),
        (
            {"a": torch.ones(3), "b": torch.ones(2), "c": torch.ones(2)},
            "gave scores for something that is no site: 'c'",
        ),
        ({"a": torch.ones(1, 3), "b": torch.ones(2)}, r"gave \[1, 3\] for site 'a', which has 3 heads"),
        ({"a": torch.ones(3), "b": [1, 2]}, "gave list for site 'b', which has 2 heads"),
        ({"a": torch.ones(3), "b": torch.tensor([1, math.nan])}, "gave nan for head 1 of site 'b'"),
    ],
)
def test_scores_that_are_not_one_number_a_head_are_refused(scores, says):
    with pytest.raises(HiesError, match=f"^Method 'given' {says}"):
        Given(scores)(Model().statistics((), 0, 0))


def test_a_method_that_is_given_the_model_asks_for_statistics():
    with pytest.raises(ParameterError, match=r"statistics is 'Linear'; give what hies.collect\(model"):
        HIES(0.5)(torch.nn.Linear(2, 2))


def test_an_iterative_selection_scores_again_with_heads_masked():
    model = Model()
    selection = Selection(schedule="iterative", step=0.2)
    plan = HIS().plan(model, Draw(0, 8), selection, [0.4])
    assert plan.models[0.4].removed == {"a": [0], "b": [1]}
    assert [removed for *_, removed in model.looked] == [None, {"b": [1]}]


def test_a_method_that_removes_no_heads_plans_itself():
    method = SliceGPT()
    plan = method.plan(Model(), Draw(3, 8), Selection(), [0.5])
    assert plan.models == {0.0: MaskedHeads(), 0.5: AppliedMethod(method, 0.5, Draw(3, 8))}
    assert plan.models[0.5].removed == {} and "scores" not in plan.arrays


def test_a_protocol_chooses_alpha_and_notes_it():
    method, model, ticks = HIES("auto", alphas=(0.9, 0.1)), Model(), []
    plan = method.plan(model, Draw(3, 8), Selection(), [0.2, 0.6], lambda: ticks.append(1))
    assert len(ticks) == method.steps([0.2, 0.6]) == 4 and model.counter.naive == 4 * 2 * 8
    assert [note["alpha_used"] for note in plan.notes.values()] == [None, 0.9, 0.9]
    assert HIES("per_ratio", tuning_seeds=3).steps([0.0, 0.5]) == 3 * len(HIES().alphas)


def test_ratios_that_a_method_cannot_remove_are_left_out():
    block = LLMPrunerBlock(keep_first=1, keep_last=0)
    scores, sites = {"a": torch.ones(3), "b": torch.ones(2)}, Model().sites
    assert [*block.masks(lambda _: scores, [0.2, 0.4, 0.6], Selection(), sites)] == [0.2, 0.4]
    with pytest.raises(ParameterError, match=r"^ratio is 0.6; it removes 3 of 5 heads, .* can remove at most 2"):
        block.masks(lambda _: scores, [0.6, 0.8], Selection(), sites)
