"""Output norm and Fisher information of heads against plain computations, and HIES on the former."""

import copy
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from checks import Double
from plain_scoring import (
    eager_attentions,
    examples_of_different_length,
    in_batches,
    plain_loss,
    real_tokens,
    with_exact_norms,
)
from tiny_models import make, make_batch, output_projection

from hies import HiesError, Statistics, collect, equations, masked, select
from hies.heads.attention import handling
from hies.methods.fisher import Fisher
from hies.methods.hies import HIES
from hies.methods.output_norm import OutputNorm
from hies.scoring.losses import default_loss

VALUES = {"bert": "value", "vit": "v_proj", "llama": "v_proj", "llama_grouped": "v_proj", "t5": "v", "albert": "value"}
NEED = ("output_norm",)


def norms_of(statistics):
    return statistics["output_norm"]


# --- output norm ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def eager_values(model, name, batch, sites):
    """What the value projection of each site gives, by call, {site: [[examples, keys, key heads * width]]}."""
    model, found = copy.deepcopy(model).eval(), defaultdict(list)
    for site in sites:
        projection = model.get_submodule(f"{site}.{VALUES[name]}")
        projection.register_forward_hook(lambda module, inputs, output, site=site: found[site].append(output.numpy()))
    model(**batch)
    return found


def plain_norm(weights, values, real, width):
    """[examples, heads] of one call after another: softmax weights times values, by loops."""
    examples, heads = weights[0].shape[:2]
    result = np.zeros((examples, heads))
    for example in range(examples):
        for head in range(heads):
            tokens = []
            for attention, given in zip(weights, values, strict=True):
                shared = heads * width // given.shape[-1]  # query heads that read the same values
                start = head // shared * width
                outputs = attention[example, head] @ given[example, :, start : start + width]
                tokens += [math.sqrt(sum(x * x for x in outputs[t])) for t in np.flatnonzero(real[example])]
            result[example, head] = np.mean(tokens)
    return result


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("bert", "right"),
        ("bert", "left"),
        ("llama", "right"),
        ("llama", "left"),
        ("llama_grouped", "right"),
        ("llama_grouped", "left"),
        ("t5", "right"),
        ("vit", None),
        ("albert", "right"),
    ],
)
def test_it_is_the_norm_of_eager_weights_times_values(name, side):
    model, batch = make(name, torch.float64), make_batch(name, side, torch.float64)
    with Double():
        statistics, attentions = collect(model, [batch], NEED), eager_attentions(model, batch)
        sites, weights = list(statistics.heads), defaultdict(list)
        values = eager_values(model, name, batch, sites)
    for number, attention in enumerate(attentions):
        weights[sites[number % len(sites)]].append(attention)
    assert norms_of(statistics).keys() == weights.keys() == values.keys()
    for site, found in norms_of(statistics).items():
        projection = output_projection(model, name, site)
        width = projection.in_features // statistics.heads[site]
        expected = plain_norm(weights[site], values[site], real_tokens(name, site, batch), width)
        assert found.shape == expected.shape and found.dtype == torch.float64
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=0)
        np.testing.assert_allclose(OutputNorm()(statistics)[site], expected.mean(0), rtol=1e-10, atol=0)
        assert expected.std(0).min() > 1e-3 and expected.std(1).min() > 1e-3


def test_a_token_that_sees_one_key_alone_counts_and_an_example_without_tokens_does_not():
    model, batch = make("bert", torch.float64), make_batch("bert")
    batch["attention_mask"][1, 1:] = 0
    batch["attention_mask"][2] = 0
    statistics = collect(model, [batch], NEED)
    site = next(iter(statistics.heads))
    values = eager_values(model, "bert", batch, [site])[site][0][1, 0].reshape(5, 7)  # of the only token
    for name, found in norms_of(statistics).items():
        assert found[:2].isfinite().all() and found[2].isnan().all()
        torch.testing.assert_close(OutputNorm()(statistics)[name], found[:2].mean(0), rtol=1e-12, atol=0)
    expected = [math.sqrt(sum(x * x for x in head)) for head in values]
    np.testing.assert_allclose(norms_of(statistics)[site][1], expected, rtol=1e-12)


def test_heads_that_no_example_tells_about_are_an_error():
    batch = make_batch("bert")
    batch["attention_mask"][:] = 0
    with pytest.raises(HiesError, match=r"'output_norm' gave nan for head 0 of site 'bert\.encoder\.layer\.0"):
        OutputNorm()(collect(make("bert"), [batch], NEED))


@pytest.mark.parametrize("name", ["bert", "opt", "llama_grouped", "t5", "bart_classifier"])
def test_it_does_not_depend_on_the_batch_size(name):
    model, examples = make(name, torch.float64), examples_of_different_length(name, 17)
    alone, some, together = (collect(model, in_batches(examples, size), NEED) for size in (1, 7, 17))
    for site, expected in norms_of(alone).items():
        assert expected.shape == (17, alone.heads[site])
        for other in (some, together):
            torch.testing.assert_close(norms_of(other)[site], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["swin", "albert", "llava", "mistral"])
def test_an_example_is_measured_alike_alone_and_in_a_batch(name):
    model, batch = make(name), make_batch(name)
    together = norms_of(collect(model, [batch], NEED))
    alone = norms_of(collect(model, [{key: value[i : i + 1] for key, value in batch.items()} for i in range(3)], NEED))
    for site, values in together.items():
        torch.testing.assert_close(values, alone[site], rtol=1e-4, atol=0)
        assert values.std(0).min() > 1e-4


@pytest.mark.parametrize("need", [("his", "output_norm"), ("his_token", "ae:min", "output_norm")])
@pytest.mark.parametrize("name", ["bert", "llama_grouped", "t5", "swin"])
def test_layers_that_run_again_are_not_measured_again(name, need, monkeypatch):
    model, batch, ran, measured = make(name, torch.float64), make_batch(name, dtype=torch.float64), [], []
    plain = equations.token_output_norm
    monkeypatch.setattr(equations, "token_output_norm", lambda output: measured.append(1) or plain(output))

    def count(site, call, output):
        ran.append(site)
        return output

    kept = collect(model, [batch], need)
    assert len(measured) == len(kept.heads)
    with handling(model, count):
        again = collect(model, [batch], need, default_loss(model), checkpoint=True)  # no pass that checks the loss
    assert len(ran) == 2 * len(kept.heads) and len(measured) == 2 * len(kept.heads)
    for site, values in norms_of(kept).items():
        torch.testing.assert_close(norms_of(again)[site], values, rtol=1e-12, atol=0)


def test_it_takes_no_labels_and_disturbs_no_other_statistic():
    model, batch = make("bert"), make_batch("bert")
    alone = collect(model, [{key: value for key, value in batch.items() if key != "labels"}], NEED)
    without, together = (collect(model, [batch], need) for need in (("his", "ae"), ("his", "ae", *NEED)))
    for site in alone.heads:
        for name, other in (("output_norm", alone), ("his", without), ("ae", without)):
            assert torch.equal(together[name][site], other[name][site])
    with pytest.raises(HiesError, match=r"'output_norm' was not collected.*need=\('output_norm',\)"):
        norms_of(without)


def test_a_masked_head_has_none():
    model, batch = make("llama_grouped"), make_batch("llama_grouped")
    with masked(model, {"model.layers.1.self_attn": [0, 4]}):
        scores = OutputNorm()(collect(model, [batch], NEED))
    assert (scores["model.layers.1.self_attn"] == 0).tolist() == [True, False, False, False, True, False]
    assert (scores["model.layers.0.self_attn"] > 0).all()


def test_half_precision_neither_overflows_nor_rounds():
    output = torch.tensor([[300.0, 400.0], [3e-4, 4e-4]], dtype=torch.float16)
    assert equations.token_output_norm(output).tolist() == pytest.approx([500, 5e-4], rel=1e-3)
    assert equations.token_output_norm(output).dtype == torch.float32
    model, batch = make("bert"), make_batch("bert")
    exact, half = (norms_of(collect(m, [batch], NEED)) for m in (model, copy.deepcopy(model).bfloat16()))
    for site, values in exact.items():
        torch.testing.assert_close(half[site], values, rtol=0.05, atol=0)


def test_small_outputs_go_first():
    norms = torch.tensor([[1.0, 6.0, 3.0], [5.0, 2.0, math.nan]], dtype=torch.float64)
    scores = OutputNorm()(Statistics({"a": 3}, 2, {"output_norm": {"a": norms}}))
    assert scores["a"].tolist() == [3, 4, 3]
    assert [select(scores, ratio)["a"] for ratio in (1 / 3, 2 / 3)] == [[0], [0, 2]]


# --- Fisher information -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "vit"])
def test_fisher_information_is_that_of_a_loop_of_backward_passes(name):
    model = with_exact_norms(make(name, torch.float64).eval())  # else float32 would leave few digits
    batch = make_batch(name, dtype=torch.float64)
    statistics = collect(model, [batch], Fisher().need)
    gates = {
        site: torch.ones(heads, dtype=torch.float64, requires_grad=True) for site, heads in statistics.heads.items()
    }
    for site, gate in gates.items():

        def scale(module, inputs, gate=gate):
            scaled = inputs[0].unflatten(-1, (len(gate), -1)) * gate[:, None]
            return (scaled.flatten(-2), *inputs[1:])

        output_projection(model, name, site).register_forward_pre_hook(scale)
    squares = []
    for example in range(3):
        one = {key: value[example : example + 1] for key, value in batch.items()}
        logits = model(**{key: value for key, value in one.items() if key != "labels"}).logits
        gradients = torch.autograd.grad(plain_loss(name, logits, one["labels"]).sum(), list(gates.values()))
        squares.append([gradient**2 for gradient in gradients])
    for (site, found), *examples in zip(Fisher()(statistics).items(), *squares, strict=True):
        expected = sum(examples) / 3
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.max()))
        assert (found > statistics.his[site] ** 2).all()  # the examples differ


def test_fisher_information_by_hand():
    gradient = torch.tensor([[1.0, -5.0, 0.0], [-3.0, 1.0, 0.0]], dtype=torch.float64)
    assert Fisher()(Statistics({"a": 3}, 2, {"his": {"a": gradient}}))["a"].tolist() == [5, 13, 0]


# --- HIES on output norms ---------------------------------------------------------------------------------------------

# Mean norms: a = 2, 6; b = 4, 10, 3. AE: a = 0.2, 0.4; b = 1.0, 0.6, 0.3.
NORMS = {"a": [[1.0, 8.0], [3.0, 4.0]], "b": [[4.0, 9.0, 3.0], [math.nan, 11.0, 3.0]]}
ENTROPY = {"a": [[0.2, 0.4]] * 2, "b": [[1.0, 0.6, 0.3]] * 2}
NORMALISED = {"a": [(0, 0), (1 / 2, 1 / 4)], "b": [(1 / 4, 1), (1, 1 / 2), (1 / 8, 1 / 8)]}


@pytest.fixture
def statistics():
    norms, entropy = (
        {site: torch.tensor(rows, dtype=torch.float64) for site, rows in given.items()} for given in (NORMS, ENTROPY)
    )
    return Statistics({"a": 2, "b": 3}, 2, {"ae": entropy, "output_norm": norms})


@pytest.mark.parametrize("alpha", [0, 0.3, 0.9])
def test_output_norm_and_entropy_by_hand(alpha, statistics):
    for combination, combine in {
        "sum": lambda norm, ae: alpha * norm + (1 - alpha) * (1 - ae),
        "product": lambda norm, ae: norm**alpha * (1 - ae) ** (1 - alpha),
    }.items():
        scores = HIES(alpha, importance="output_norm", combination=combination)(statistics)
        for site, pairs in NORMALISED.items():
            expected = torch.tensor([combine(*pair) for pair in pairs], dtype=torch.float64)
            torch.testing.assert_close(scores[site], expected)


def test_output_norm_and_entropy_of_a_model():
    criterion = HIES(0.4, importance="output_norm", entropy="gini")
    assert criterion.need == {"output_norm", "ae:gini"}
    model, batch = make("bert", torch.float64), make_batch("bert")
    statistics = collect(model, [batch], criterion.need)

    def scaled(values):
        values = values.mean(0)
        return (values - values.min()) / (values.max() - values.min())

    norms, spread = (scaled(torch.cat(list(statistics[name].values()), 1)) for name in (*NEED, "ae:gini"))
    found = torch.cat(list(criterion(statistics).values()))
    torch.testing.assert_close(found, 0.4 * norms + 0.6 * (1 - spread))


def test_the_knob_is_named_only_where_it_is_not_the_papers():
    assert "importance" not in HIES().knobs and HIES().need == {"his", "ae"}
    found = HIES(importance="output_norm", reduction_batch=7).knobs
    assert found == {**HIES().knobs, "importance": "output_norm"}
    assert HIES("per_ratio", importance="output_norm").at(0.3).need == {"output_norm", "ae"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"importance": "norm"}, "importance is 'norm'; use his or output_norm"),
        ({"importance": "output_norm", "reduction": "token"}, r"reduction is 'token'; .* leave it at 'example'"),
        (
            {"importance": "output_norm", "reduction": "batch"},
            r"reduction is 'batch'.*leave it at 'example'",
        ),
    ],
)
def test_an_importance_that_cannot_be_is_refused(options, says):
    with pytest.raises(HiesError, match=says):
        HIES(**options)
