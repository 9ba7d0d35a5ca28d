"""Other entropies, other reductions of HIS, other combinations: each against its definition."""

import math

import pytest
import torch
from plain_scoring import eager_attentions
from tiny_models import make, make_batch

from hies import HiesError, Statistics, attention_entropy, collect, equations
from hies.heads.attention import handling
from hies.methods import AD, AE, HIES, HIS
from hies.scoring.entropy_kinds import ENTROPIES as KINDS
from hies.scoring.entropy_kinds import Entropy, entropy_named

ENTROPIES = [
    Entropy(),
    Entropy("renyi", 0.5),
    Entropy("renyi", 2),
    Entropy("renyi", 3.7),
    Entropy("tsallis", 0.5),
    Entropy("tsallis", 3),
    Entropy("min"),
    Entropy("gini"),
    Entropy("support"),
]
NAMES = [entropy.need for entropy in ENTROPIES]


def by_definition(entropy, weights):
    """The spread of one row of weights in [0, 1], from textbook formulas on plain numbers."""
    p, n = [w for w in weights if w > 0], len(weights)
    q = entropy.order
    shannon = -sum(w * math.log(w) for w in p)
    return {
        "shannon": lambda: shannon / math.log(n),
        "renyi": lambda: math.log(sum(w**q for w in p)) / (1 - q) / math.log(n),
        "tsallis": lambda: (1 - sum(w**q for w in p)) / (1 - n ** (1 - q)),
        "min": lambda: -math.log(max(p)) / math.log(n),
        "gini": lambda: (1 - sum(w * w for w in p)) / (1 - 1 / n),
        "support": lambda: (math.exp(shannon) - 1) / (n - 1),
    }[entropy.kind]()


# --- entropies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [None, torch.zeros(1, 1, 1, 1)], ids=["fused", "chunked"])
@pytest.mark.parametrize("entropy", ENTROPIES, ids=NAMES)
def test_every_entropy_is_its_definition(generator, entropy, bias):
    query, key = (torch.randn(2, 3, n, 5, generator=generator) for n in (7, 11))
    mask = torch.rand(2, 1, 7, 11, generator=generator) > 0.3
    nats = attention_entropy(query, key, mask, order=entropy.renyi_order, bias=bias)
    found = entropy.relative(nats, mask.sum(-1))
    scores = (query.double() @ key.double().mT * 5**-0.5).masked_fill(~mask, -torch.inf)
    for place in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        b, h, t = place
        expected = by_definition(entropy, scores[b, h, t].softmax(0)[mask[b, 0, t]].tolist())
        assert float(found[b, h, t]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("entropy", ENTROPIES, ids=NAMES)
def test_one_key_is_zero_all_keys_alike_are_one_and_a_single_key_tells_nothing(entropy):
    query = torch.ones(1, 1, 1, 1)
    even, sharp = torch.zeros(1, 1, 13, 1), torch.zeros(1, 1, 13, 1)
    sharp[0, 0, 4] = 200.0
    for key, expected in ((even, 1.0), (sharp, 0.0)):
        nats = attention_entropy(query, key, scale=1.0, order=entropy.renyi_order)
        assert float(entropy.relative(nats, torch.tensor(13))) == pytest.approx(expected, abs=1e-5)
    nats = attention_entropy(query, even[:, :, :1], scale=1.0, order=entropy.renyi_order)
    assert entropy.relative(nats, torch.tensor(1)).isnan().all()


@pytest.mark.parametrize("entropy", ENTROPIES, ids=NAMES)
def test_an_entropy_has_a_name_that_finds_it(entropy):
    assert entropy_named(entropy.need) == entropy
    close = Entropy("renyi", 2.0000001)
    assert entropy_named(close.need) == close != Entropy("renyi", 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"entropy": "shanon"}, "'shanon'; use shannon, renyi"),
        ({"entropy": "renyi"}, "order is None"),
        ({"entropy": "min", "order": 2}, "takes none"),
        ({"entropy": "tsallis", "order": 1}, "not 1"),
        ({"entropy": "renyi", "order": -1}, "positive"),
        ({"entropy": "renyi", "order": math.inf}, "finite"),
    ],
)
@pytest.mark.parametrize("kind", [AE, AD, HIES])
def test_an_entropy_that_there_is_not_is_refused(kind, options, says):
    with pytest.raises(HiesError, match=says):
        kind(**options)


@pytest.mark.parametrize("need", ["ae:", "ae:nothing", "ae:renyi", "ae:renyi-x", "ae:min-2", "his_word"])
def test_a_statistic_that_there_is_not_is_refused(need):
    with pytest.raises(HiesError):
        collect(make("bert"), [make_batch("bert")], need=(need,))


@pytest.mark.parametrize("name", ["bert", "swin", "t5"])
def test_all_entropies_come_from_one_pass_and_do_not_disturb_each_other(name):
    model, batch = make(name), make_batch(name)
    together = collect(model, [batch], need=[*NAMES, "his"])
    for need in NAMES:
        alone = collect(model, [batch], need=(need,))[need]
        for site, values in together[need].items():
            assert values.shape == (3, together.heads[site])
            torch.testing.assert_close(values, alone[site], rtol=0, atol=0)


@pytest.mark.parametrize("entropy", ENTROPIES, ids=NAMES)
def test_the_entropy_of_a_model_is_that_of_its_eager_weights(entropy):
    model, batch = make("bert").eval(), make_batch("bert")
    found = collect(model, [batch], need=(entropy.need,)).mean_entropy(entropy)
    for values, weights in zip(found.values(), eager_attentions(model, batch), strict=True):
        expected = torch.zeros(5, dtype=torch.float64)
        for example, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            for head in range(5):
                rows = weights[example, head, :length, :length]
                expected[head] += sum(by_definition(entropy, row.tolist()) for row in rows) / length / 3
        torch.testing.assert_close(values, expected, rtol=0, atol=2e-5)


# --- reductions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "albert", "swin", "llama_grouped", "bart"])
def test_the_gradient_of_a_token_is_that_of_its_output(name):
    model, batch = make(name, torch.float64).eval(), make_batch(name, dtype=torch.float64)
    outputs = {}

    def keep(site, call, output):
        output.requires_grad_(True) if output.is_leaf else output.retain_grad()
        outputs.setdefault(site, []).append(output)
        return output

    with handling(model, keep):
        loss = plain_losses(model, batch).sum()
    loss.backward()
    found = collect(model, [batch], need=("his_token",))
    for site, calls in outputs.items():
        felt = [(call * call.grad).sum(-1) for call in calls]  # [rows, tokens, heads]
        per_example = torch.cat([one.unflatten(0, (3, -1)).flatten(1, 2) for one in felt], dim=1)
        torch.testing.assert_close(found["his_token"][site], per_example.abs().sum(1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found["his"][site], per_example.sum(1), rtol=1e-9, atol=1e-12)


def plain_losses(model, batch):
    from hies.scoring.losses import default_loss

    return default_loss(model)(model(**batch), batch)


def test_asking_for_tokens_changes_nothing_else():
    model, batch = make("bert", torch.float64), make_batch("bert")
    plain, tokens = collect(model, [batch]), collect(model, [batch], need=("his", "his_token", "ae"))
    for site in plain.heads:
        torch.testing.assert_close(plain["his"][site], tokens["his"][site], rtol=1e-9, atol=1e-12)
        assert torch.equal(plain["ae"][site], tokens["ae"][site])
        assert (tokens["his_token"][site] >= tokens["his"][site].abs() - 1e-12).all()


GRADIENT = torch.tensor([[1.0, -5.0], [-3.0, 7.0], [2.0, 1.0], [4.0, -1.0], [-6.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [16 / 5, 14 / 5]),
        ({"reduction": "batch", "reduction_batch": 2}, [(1 + 3 + 6) / 3, 1 / 3]),
        ({"reduction": "batch", "reduction_batch": 1}, [16 / 5, 14 / 5]),
        ({"reduction": "batch"}, [2 / 5, 2 / 5]),
        ({"reduction": "batch_l2"}, [0.5**0.5, 0.5**0.5]),
        ({"reduction": "token"}, [2.0, 4.0]),
    ],
)
def test_reductions_by_hand(options, expected):
    tokens = torch.tensor([[1.0, 3.0], [3.0, 5.0]], dtype=torch.float64)
    statistics = Statistics({"a": 2}, 5, {"his": {"a": GRADIENT}, "his_token": {"a": tokens}})
    torch.testing.assert_close(HIS(**options)(statistics)["a"], torch.tensor(expected, dtype=torch.float64))


def test_a_layer_without_importance_stays_at_zero():
    assert torch.equal(equations.layer_l2(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("kind", [HIS, HIES])
def test_a_reduction_that_there_is_not_is_refused(kind):
    with pytest.raises(HiesError, match="'words'; use example"):
        kind(reduction="words")
    with pytest.raises(HiesError, match="reduction_batch is 0"):
        kind(reduction="batch", reduction_batch=0)


# --- combinations -----------------------------------------------------------------------------------------------------


def test_combinations_by_hand():
    statistics = Statistics(
        {"a": 3},
        1,
        {
            "his": {"a": torch.tensor([[0.0, 1.0, 4.0]], dtype=torch.float64)},
            "ae": {"a": torch.tensor([[0.2, 0.6, 0.4]], dtype=torch.float64)},
        },
    )
    felt, spread = [0.0, 0.25, 1.0], [0.0, 1.0, 0.5]
    for name, formula in {
        "sum": lambda i, e: 0.7 * i + 0.3 * (1 - e),
        "product": lambda i, e: i**0.7 * (1 - e) ** 0.3,
        "printed": lambda i, e: 0.7 * i + 0.3 * e,
    }.items():
        found = HIES(0.7, combination=name)(statistics)["a"]
        assert found.tolist() == pytest.approx([formula(i, e) for i, e in zip(felt, spread, strict=True)])
    with pytest.raises(HiesError, match="'mean'; use sum"):
        HIES(combination="mean")
    for combination in ("product", "printed"):
        with pytest.raises(HiesError, match="alpha is 1"):
            equations.combine(torch.zeros(2), torch.zeros(2), 1, combination)


@pytest.mark.parametrize(
    ("criterion", "knobs"),
    [
        (HIS(), {}),
        (HIS(reduction="batch"), {"reduction": "batch", "reduction_batch": 32}),
        (HIS(reduction="token", reduction_batch=7), {"reduction": "token"}),
        (AE(), {}),
        (AD("renyi", 2), {"entropy": "renyi", "order": 2}),
        (HIES(0.5), {"alpha": 0.5, "normalize": "global"}),
        (HIES(0, combination="product"), {"alpha": 0.0, "normalize": "global", "combination": "product"}),
    ],
)
def test_a_variant_is_named_in_the_knobs_and_the_paper_is_not(criterion, knobs):
    assert criterion.knobs == knobs


def test_statistics_of_variants_survive_the_cache():
    found = collect(make("bert"), [make_batch("bert")], need=("his_token", "ae:min", "ae:renyi-2", "l2"))
    back = Statistics.from_arrays(found.to_arrays())
    assert back.heads == found.heads and set(back) == set(found) == {"his", "his_token", "ae:min", "ae:renyi-2", "l2"}
    for name in found:
        for site, values in found[name].items():
            torch.testing.assert_close(back[name][site], values, rtol=0, atol=0, equal_nan=True)


def test_arrays_keep_the_names_that_earlier_caches_have():
    found = collect(make("bert"), [make_batch("bert")], need=("his_token", "ae", "l2", "ae:min"))
    arrays = found.to_arrays()
    assert {*arrays} == {
        *("sites", "heads", "examples", "seconds", "gradient", "entropy", "weight_norm"),
        *("other/his_token", "other/ae:min"),
    }
    assert arrays["gradient"].shape == (len(arrays["entropy"]), arrays["heads"].sum())
    back = Statistics.from_arrays(arrays)
    assert torch.equal(torch.cat([*back["l2"].values()]), torch.from_numpy(arrays["weight_norm"]))


def test_a_statistic_that_was_not_collected_is_named():
    found = collect(make("bert"), [make_batch("bert")], need=("ae",))
    assert "ae" in found and "his" not in found and [*found] == ["ae"]
    with pytest.raises(HiesError, match=r"'his' was not collected; call hies.collect\(..., need=\('his',\)\)"):
        found["his"]
    site = next(iter(found.heads))
    assert found.of_sites([site]).heads == {site: 5} and [*found.of_sites([site])["ae"]] == [site]


def test_every_kind_is_tested():
    assert {entropy.kind for entropy in ENTROPIES} == set(KINDS)
