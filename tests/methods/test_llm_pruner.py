"""LLM-Pruner: Taylor terms against gradients example by example, what is kept, and channels against zeroed weights."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import LENGTHS, make, make_batch

from hies import HiesError, Statistics, UnsupportedModelError, collect, find_sites, masked, prune
from hies.efficiency.cost import count
from hies.methods import Calibration
from hies.methods.llm_pruner.block import MATRICES, LLMPrunerBlock
from hies.methods.llm_pruner.channel import LLMPrunerChannel
from hies.methods.llm_pruner.channels import Reading, Writing, attention_modules, one_stream, without_channels
from hies.methods.llm_pruner.taylor import channel_saliences, head_saliences
from hies.scoring.losses import default_loss

DOUBLE = torch.float64
KINDS = ("vectorised", "first", "second", "mixed")
REDUCTIONS = ("sum", "mean", "max", "product")
LAYERS = range(2)


def batch_of(name):
    return make_batch(name, dtype=DOUBLE)


def saliences(model, batches, **options):
    return head_saliences(model, batches, default_loss(model), **options)


def near(found, expected, tolerance=1e-5):
    """Equal up to rounding; norms of some decoders compute in float32 whatever the dtype of the model."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


# --- what the saliences are, computed another way ---


def bert_weights(layer):
    """matrix -> (name, whether the first dimension is the outputs, row of every head's i-th component)."""
    place = f"bert.encoder.layer.{layer}.attention"
    names = {matrix: f"{place}.self.{matrix}.weight" for matrix in ("query", "key", "value")}
    names["output"] = f"{place}.output.dense.weight"
    return {matrix: (name, True, [range(7 * h, 7 * h + 7) for h in range(5)]) for matrix, name in names.items()}


def gpt2_weights(layer):
    fused, place = f"transformer.h.{layer}.attn.c_attn.weight", f"transformer.h.{layer}.attn.c_proj.weight"
    parts = {"query": (fused, 0), "key": (fused, 35), "value": (fused, 70), "output": (place, 0)}
    return {
        matrix: (name, False, [range(first + 7 * h, first + 7 * h + 7) for h in range(5)])
        for matrix, (name, first) in parts.items()
    }


def llama_weights(layer):
    """Six query heads of width 8, three to a key and a value."""
    place = f"model.layers.{layer}.self_attn"
    every, shared = [[range(8 * (h // size), 8 * (h // size) + 8) for h in range(6)] for size in (1, 3)]
    rows = {"q": every, "k": shared, "v": shared, "o": every}
    return {m: (f"{place}.{m[0]}_proj.weight", True, rows[m[0]]) for m in MATRICES}


WEIGHTS = {"bert": bert_weights, "gpt2": gpt2_weights, "llama_grouped": llama_weights}
SITES = {
    "bert": [f"bert.encoder.layer.{i}.attention.self" for i in LAYERS],
    "gpt2": [f"transformer.h.{i}.attn" for i in LAYERS],
    "llama_grouped": [f"model.layers.{i}.self_attn" for i in LAYERS],
}


def example_gradients(model, batch):
    """{parameter: [examples, ...]}, of the loss of one example after the other, without its padding."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    rows = {}
    for i, length in enumerate(LENGTHS):
        labels = batch["labels"][i]
        logits = model(**{key: batch[key][i : i + 1, :length] for key in ("input_ids", "attention_mask")}).logits[0]
        pairs = (logits, labels) if logits.dim() == 1 else (logits[: length - 1], labels[1:length])
        model.zero_grad()
        F.cross_entropy(*pairs).backward()
        for name, parameter in model.named_parameters():
            if "att" in name:
                rows.setdefault(name, []).append(parameter.grad.clone())
    return {name: torch.stack(found) for name, found in rows.items()}


def taylor_term(kind, w, gradients):
    """The salience of one weight matrix, written out from the definition."""
    mean, fisher = sum(gradients) / len(gradients), sum(g * g for g in gradients) / len(gradients)
    return {
        "vectorised": w * mean,
        "first": (w * mean).abs(),
        "second": 0.5 * fisher * w**2,
        "mixed": (w * mean - 0.5 * fisher * w**2).abs(),
    }[kind]


def terms(model, gradients, name, kind):
    """(layer, matrix) -> the terms of its weights [rows of all heads, channels], and the rows of each head."""
    for layer in LAYERS:
        for matrix, (path, outputs_first, rows) in WEIGHTS[name](layer).items():
            term = taylor_term(kind, model.get_parameter(path).detach(), gradients[path])
            yield layer, matrix, term if outputs_first == (matrix != "output") else term.T, rows


@pytest.fixture(scope="module", params=WEIGHTS)
def case(request):
    name = request.param
    model, batch = make(name, DOUBLE), batch_of(name)
    return name, model, batch, example_gradients(model, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_head_saliences_are_those_of_gradients_example_by_example(case, kind):
    name, model, batch, gradients = case
    found = saliences(model, [batch])
    for layer, matrix, term, rows in terms(model, gradients, name, kind):
        sharing = 3 if name == "llama_grouped" and matrix in ("key", "value") else 1
        expected = torch.tensor([sum(float(term[row].sum()) for row in of_head) / sharing for of_head in rows])
        near(found[f"taylor/{matrix}/{kind}"][SITES[name][layer]], expected.double())
    assert found.keys() == {"taylor/groups", *(f"taylor/{m}/{k}" for m in MATRICES for k in KINDS)}


@pytest.mark.parametrize("kind", KINDS)
def test_channel_saliences_are_those_of_gradients_example_by_example(case, kind):
    name, model, batch, gradients = case
    found = channel_saliences(model, one_stream(model), [batch], default_loss(model))
    for matrix in MATRICES:
        parts = [(term, rows) for _, m, term, rows in terms(model, gradients, name, kind) if m == matrix]
        each = [term[row] for term, rows in parts for row in sorted({row for of_head in rows for row in of_head})]
        near(found[f"{matrix}/{kind}"], sum(each))


def test_saliences_tell_heads_and_kinds_apart(case):
    """The comparisons above would pass on constants if the model had no structure."""
    _, model, batch, _ = case
    found = saliences(model, [batch])
    for matrix, kind in itertools.product(MATRICES, KINDS):
        heads = torch.cat(list(found[f"taylor/{matrix}/{kind}"].values()))
        assert len(heads.unique()) >= 4 and heads.dtype == DOUBLE  # two key/value heads in each of two layers
        assert bool((heads < 0).any()) == (kind == "vectorised")


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "vit"])
def test_saliences_do_not_depend_on_how_examples_are_batched(name):
    model, batch = make(name, DOUBLE), batch_of(name)
    singles = [{key: value[i : i + 1] for key, value in batch.items()} for i in (2, 0, 1)]
    if name != "vit":
        longer = {key: F.pad(value, (0, 4)) for key, value in batch.items() if value.dim() == 2}
        if name == "llama_grouped":
            longer["labels"] = F.pad(batch["labels"], (0, 4), value=-100)
        pair = {key: value[:2] for key, value in {**batch, **longer}.items()}
        last = {key: value[2:, : LENGTHS[2]] if value.dim() == 2 else value[2:] for key, value in batch.items()}
        singles = [last, pair]
    together, apart = saliences(model, [batch]), saliences(model, iter(singles))
    for part, of_sites in together.items():
        for site, values in of_sites.items():
            near(apart[part][site], values)


def test_an_example_may_have_several_pictures():
    """Two for each text, which has nine tokens for each: one and its mirror image."""
    model, batch = make("llava", DOUBLE), batch_of("llava")
    one = batch.pop("pixel_values")
    pictures = torch.stack([one, one.flip(-1)], 1)  # [examples, 2, ...]
    texts = {key: torch.cat([value[:, :9], value], 1) for key, value in batch.items()}
    together = saliences(model, [{**texts, "pixel_values": pictures.flatten(0, 1)}])
    singles = [{key: value[i : i + 1] for key, value in texts.items()} for i in (2, 0, 1)]
    pairs = (pictures[i] for i in (2, 0, 1))
    apart = saliences(model, [{**text, "pixel_values": pair} for text, pair in zip(singles, pairs, strict=True)])
    for part, of_sites in together.items():
        for site, values in of_sites.items():
            near(apart[part][site], values)


def test_the_heads_of_a_group_add_up_to_the_salience_of_their_key():
    model, batch = make("llama_grouped", DOUBLE), batch_of("llama_grouped")
    found, gradients = saliences(model, [batch]), example_gradients(model, batch)
    for layer, matrix, term, _ in terms(model, gradients, "llama_grouped", "vectorised"):
        site = SITES["llama_grouped"][layer]
        assert found["taylor/groups"][site].tolist() == [0, 0, 0, 1, 1, 1]
        joint = term.unflatten(0, (2, -1)).sum(dim=(1, 2))  # rows of a group lie together
        near(found[f"taylor/{matrix}/vectorised"][site].unflatten(0, (2, 3)).sum(dim=1), joint)


def test_the_matrix_of_gates_counts_with_the_queries():
    model, batch = make("afmoe", DOUBLE), batch_of("afmoe")
    gradients, found = example_gradients(model, batch), saliences(model, [batch])
    channels = channel_saliences(model, one_stream(model), [batch], default_loss(model))
    total = 0
    for layer in LAYERS:
        paths = [f"model.layers.{layer}.self_attn.{part}_proj.weight" for part in ("q", "gate")]
        term = sum(taylor_term("first", model.get_parameter(path).detach(), gradients[path]) for path in paths)
        near(found["taylor/query/first"][f"model.layers.{layer}.self_attn"], term.unflatten(0, (6, 8)).sum(dim=(1, 2)))
        total += term.sum(dim=0)
    near(channels["query/first"], total)


@pytest.mark.parametrize("name", ["llama_grouped", "olmo2"])
def test_a_pruned_model_has_the_saliences_of_the_masked_one(name):
    """olmo2 keeps the queries and keys of the heads that are gone, since one norm lies over them all."""
    model, batch = make(name, DOUBLE), batch_of(name)
    removed = {"model.layers.0.self_attn": [0, 1, 2, 4], "model.layers.1.self_attn": [3]}
    with masked(model, removed):
        dense = saliences(model, [batch])
    small = saliences(prune(model, removed), [batch])
    for (site, gone), matrix in itertools.product(removed.items(), MATRICES):
        stay = [head for head in range(6) if head not in gone]
        before, after = dense[f"taylor/{matrix}/first"][site], small[f"taylor/{matrix}/first"][site]
        if matrix in ("query", "output"):
            near(after, before[stay])
        else:  # the shares of a group's heads that are gone are with those that are left
            groups = small["taylor/groups"][site].tolist()
            whole = before.unflatten(0, (2, 3)).sum(dim=1)[sorted({head // 3 for head in stay})]
            near(after, torch.stack([whole[int(group)] / groups.count(group) for group in groups]))


# --- the pass ---


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}, list(model.named_modules())


def check_unchanged(model, before):
    state, modules = before
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [(name, id(module)) for name, module in modules] == [(n, id(m)) for n, m in model.named_modules()]


@pytest.mark.parametrize("failing", [False, True])
def test_the_pass_leaves_the_model_as_it_was(failing):
    model, batch = make("bert_regression"), make_batch("bert_regression")
    model.train()
    model.bert.encoder.layer[1].eval()
    model.bert.embeddings.requires_grad_(False)
    query = model.bert.encoder.layer[0].attention.self.query.weight
    query.requires_grad_(False)
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    training, before = [module.training for module in model.modules()], snapshot(model)
    if failing:
        batch["labels"][1] = math.inf
        with pytest.raises(HiesError, match=r"^Example 1 has a gradient that is not finite at site 'bert\.encoder\."):
            saliences(model, [batch])
    else:
        with torch.no_grad():
            saliences(model, [batch])
    check_unchanged(model, before)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [module.training for module in model.modules()] == training
    assert model.config.problem_type is None  # a model that sees labels writes there
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"classifier.weight"}
    assert (model.classifier.weight.grad == 1).all() and query.grad is None


def test_no_dropout_falls_into_the_gradients():
    model, batch = make("bert", DOUBLE), batch_of("bert")
    model.train()
    one, other = (saliences(model, [batch])["taylor/value/first"] for _ in range(2))
    assert all(torch.equal(one[site], other[site]) for site in one)


def test_the_example_of_a_bad_gradient_is_counted_over_batches():
    model, batch = make("bert_regression"), make_batch("bert_regression")
    bad = {**batch, "labels": torch.tensor([0.0, 1.0, math.nan])}
    with pytest.raises(HiesError, match=r"^Example 5 has a gradient"):
        saliences(model, [batch, bad])


def test_a_loss_of_ones_own_may_read_the_models_loss():
    model, batch = make("bert", DOUBLE), batch_of("bert")
    ours = saliences(model, [batch])
    theirs = head_saliences(model, [batch], lambda outputs, example: outputs.loss[None])
    near(theirs["taylor/key/mixed"][SITES["bert"][0]], ours["taylor/key/mixed"][SITES["bert"][0]], 1e-9)


def test_an_example_that_does_not_reach_a_site_counts_there_as_zero():
    model, batch = make("bert", DOUBLE), {**batch_of("bert"), "output_hidden_states": True}
    batch["labels"] = torch.tensor([0, 0, 2])

    def loss(outputs, example):
        """Of what the first layer gives; only the last example's is of the logits, which the second layer reaches."""
        return (outputs.logits if example["labels"] == 2 else outputs.hidden_states[1]).square().mean()[None]

    first, second = SITES["bert"]
    last = {key: value[2:] if torch.is_tensor(value) else value for key, value in batch.items()}
    others = {key: value[:2] if torch.is_tensor(value) else value for key, value in batch.items()}
    found, alone, without = (head_saliences(model, [one], loss) for one in (batch, last, others))
    for part in found.keys() - {"taylor/groups"}:
        near(found[part][second], alone[part][second] / 3)
        assert (without[part][second] == 0).all() and (without[part][first] != 0).all()


def test_what_cannot_be_told_apart_is_refused():
    model, batch = make("bert"), make_batch("bert")
    with pytest.raises(HiesError, match="no calibration example"):
        saliences(model, [])
    with pytest.raises(HiesError, match=r"3 rows of 'labels', 4 rows of 'input_ids'"):
        saliences(model, [{**batch, "input_ids": F.pad(batch["input_ids"], (0, 0, 0, 1))}])
    with pytest.raises(HiesError, match=r"shape \(1, 3\) for 1 example"):
        head_saliences(model, [batch], lambda outputs, example: outputs.logits)


def test_gradients_of_half_precision_are_added_up_in_float32():
    """Examples of one loss a thousand times that of the others: bfloat16 sums would lose the small ones."""
    model, batch = make("llama", torch.bfloat16), make_batch("llama")
    sizes, plain = iter([1.0, 3e-3, 3e-3]), default_loss(model)
    weight = model.get_parameter("model.layers.1.self_attn.o_proj.weight")
    gradients = []
    for i, size in enumerate((1.0, 3e-3, 3e-3)):
        example = {key: value[i : i + 1] for key, value in batch.items()}
        loss = size * plain(model(example["input_ids"], attention_mask=example["attention_mask"]), example).sum()
        gradients.append(torch.autograd.grad(loss, weight)[0].double())
    found = head_saliences(model, [batch], lambda outputs, example: next(sizes) * plain(outputs, example))
    expected = taylor_term("first", weight.detach().double(), torch.stack(gradients))
    near(found["taylor/output/first"]["model.layers.1.self_attn"], expected.unflatten(1, (6, 8)).sum(dim=(0, 2)), 1e-6)


def test_small_gradients_of_float16_are_not_rounded_to_zero():
    model, batch = make("vit"), make_batch("vit")
    small = {"labels": batch["labels"], "pixel_values": batch["pixel_values"].half()}
    loss, half = default_loss(model), copy.deepcopy(model).half()
    found = head_saliences(half, [small], lambda outputs, example: 1e-6 * loss(outputs, example))
    exact = saliences(model, [batch])
    for site, values in exact["taylor/query/first"].items():
        near(1e6 * found["taylor/query/first"][site], values, 0.1)


# --- block-wise: scores ---

GROUPED = {"a": [0, 0, 1, 1], "b": [0, 1]}
PARTS = {
    "query": {"a": [1.0, 2.0, -3.0, 4.0], "b": [2.0, -1.0]},
    "key": {"a": [-0.5, -0.5, 1.0, 1.0], "b": [3.0, 0.5]},
    "value": {"a": [-4.0, -4.0, 2.0, 2.0], "b": [-1.0, 0.5]},
    "output": {"a": [0.5, 0.5, 1.5, -0.5], "b": [0.25, 0.0]},
}
# Of the two groups of a and the two heads of b: query, key, value, output.
JOINT = {"a": [(3, -1, -8, 1), (1, 2, 4, 1)], "b": [(2, 3, -1, 0.25), (-1, 0.5, 0.5, 0)]}
BY_HAND = {
    "sum": lambda q, k, v, o: abs(q + k + v + o),
    "mean": lambda q, k, v, o: abs(q + k + v + o) / 4,
    "max": lambda q, k, v, o: max(abs(q), abs(k), abs(v), abs(o)),
    "product": lambda q, k, v, o: abs(q * k * v * o),
}


def statistics_of(kind, absolute):
    others = {"taylor/groups": {site: torch.tensor(groups, dtype=DOUBLE) for site, groups in GROUPED.items()}}
    for (matrix, sites), other in itertools.product(PARTS.items(), KINDS):
        values = {site: torch.tensor(of_site, dtype=DOUBLE) for site, of_site in sites.items()}
        values = {site: v.abs() if absolute else v for site, v in values.items()}
        others[f"taylor/{matrix}/{other}"] = {
            s: v if other == kind else torch.full_like(v, 77) for s, v in values.items()
        }
    return Statistics({"a": 4, "b": 2}, 3, others)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_block_scores_by_hand(kind, reduction):
    signed = kind == "vectorised"
    scores = LLMPrunerBlock(taylor=kind, reduction=reduction)(statistics_of(kind, not signed))
    for site, groups in GROUPED.items():
        joint = JOINT[site]
        if not signed:
            columns = [[abs(value) for value in PARTS[matrix][site]] for matrix in MATRICES]
            joint = [
                [sum(v for v, g in zip(column, groups, strict=True) if g == group) for column in columns]
                for group in range(2)
            ]
        expected = [BY_HAND[reduction](*joint[group]) for group in groups]
        torch.testing.assert_close(scores[site], torch.tensor(expected, dtype=DOUBLE))


def test_block_needs_the_taylor_statistic_and_no_other():
    criterion, model = LLMPrunerBlock(), make("llama_grouped")
    assert criterion.need == {"taylor"}
    scores = criterion(collect(model, [make_batch("llama_grouped")], need=criterion.need))
    for values in scores.values():
        first, second = values.unflatten(0, (2, 3))
        assert (first == first[0]).all() and (second == second[0]).all() and first[0] != second[0]
        assert (values > 0).all()
    with pytest.raises(HiesError, match="'taylor' was not collected"):
        criterion(collect(model, [make_batch("llama_grouped")], need=("l2",)))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"taylor": "third"}, "taylor is 'third'; use vectorised, first, second or mixed"),
        ({"reduction": "median"}, "reduction is 'median'; use sum, mean, max or product"),
        ({"keep_first": -1}, "keep_first is -1"),
        ({"keep_last": -2}, "keep_last is -2"),
    ],
)
def test_unknown_knobs_are_refused(knobs, words):
    with pytest.raises(HiesError, match=words):
        LLMPrunerBlock(**knobs)
    if not any(name.startswith("keep") for name in knobs):
        with pytest.raises(HiesError, match=words):
            LLMPrunerChannel(**knobs)


# --- block-wise: what goes ---


def random_layers(generator, layers, heads=5):
    return {f"layer{i}": torch.rand(heads, generator=generator, dtype=DOUBLE) for i in range(layers)}


def gone_by_site(removed, sites):
    return [len(removed.get(site, ())) for site in sites]


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("ratio", [0, 0.01, 0.1, 0.25, 0.3, 0.5, 40 / 60])
def test_exactly_the_asked_number_goes_from_layers_that_are_not_kept(ratio, local, generator):
    scores = random_layers(generator, 12)
    removed = LLMPrunerBlock(local=local).select(scores, ratio, {})
    numbers = gone_by_site(removed, scores)
    assert sum(numbers) == round(60 * ratio) and numbers[:3] == [0, 0, 0] and numbers[-1] == 0
    if local:
        assert max(numbers[3:-1]) - min(numbers[3:-1]) <= 1
        worst = {site: set(values.argsort()[: len(removed.get(site, ()))].tolist()) for site, values in scores.items()}
    else:
        ranked = sorted((float(v), site, h) for site in list(scores)[3:-1] for h, v in enumerate(scores[site]))
        worst = {site: {h for _, s, h in ranked[: round(60 * ratio)] if s == site} for site in scores}
    assert {site: set(heads) for site, heads in removed.items()} == {site: gone for site, gone in worst.items() if gone}


def test_local_and_global_differ_where_a_layer_matters_less():
    scores = {site: torch.full((4,), value, dtype=DOUBLE) for site, value in zip("abcd", (0, 1, 9, 0), strict=True)}
    assert gone_by_site(LLMPrunerBlock(local=True).select(scores, 0.25, {}), scores) == [0, 2, 2, 0]
    assert gone_by_site(LLMPrunerBlock(local=False).select(scores, 0.25, {}), scores) == [0, 4, 0, 0]


@pytest.mark.parametrize(
    ("layers", "knobs", "kept"),
    [
        (3, {}, (1, 1)), (4, {}, (1, 1)), (7, {}, (1, 1)), (8, {}, (2, 1)), (11, {}, (2, 1)), (12, {}, (3, 1)),
        (32, {}, (3, 1)), (12, {"keep_first": 0, "keep_last": 0}, (0, 0)), (6, {"keep_first": 4}, (4, 1)),
        (6, {"keep_last": 3}, (1, 3)),
    ],
)  # fmt: skip
def test_which_layers_are_kept(layers, knobs, kept):
    criterion, heads = LLMPrunerBlock(**knobs), {f"layer{i}": 3 for i in range(layers)}
    inner = layers - sum(kept)
    assert criterion.most(heads) == pytest.approx(inner / layers)
    removed = criterion.select({site: torch.rand(3) for site in heads}, criterion.most(heads), {})
    assert gone_by_site(removed, heads) == [0] * kept[0] + [3] * inner + [0] * kept[1]


def test_layers_of_different_size_count_by_their_heads():
    heads = {"a": 2, "b": 4, "c": 8, "d": 6}
    assert LLMPrunerBlock().most(heads) == 12 / 20
    scores = {site: torch.arange(n, dtype=DOUBLE) for site, n in heads.items()}
    assert gone_by_site(LLMPrunerBlock().select(scores, 0.3, {}), heads) == [0, 2, 4, 0]


@pytest.mark.parametrize("ratio", [0.68, 0.9, 1])
def test_more_than_there_is_to_prune_is_refused(ratio, generator):
    words = rf"^ratio is {ratio}; it removes \d+ of \d+ heads, but llm_pruner_block can remove at most 40 of"
    with pytest.raises(HiesError, match=words):
        LLMPrunerBlock().select(random_layers(generator, 12), ratio, {})


@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_of_which_every_layer_is_kept_is_refused(layers, generator):
    scores = random_layers(generator, layers)
    words = rf"^llm_pruner_block keeps the first 1 and the last 1 layers whole, but the model has {layers}; set"
    with pytest.raises(HiesError, match=words):
        LLMPrunerBlock().select(scores, 0.1, {})
    with pytest.raises(HiesError, match=words):
        LLMPrunerBlock().most({site: 5 for site in scores})
    assert LLMPrunerBlock(keep_first=0, keep_last=0).select(scores, 1, {}) == {site: list(range(5)) for site in scores}


def test_equal_scores_go_by_position():
    scores = {site: torch.zeros(3, dtype=DOUBLE) for site in "abcde"}
    assert LLMPrunerBlock().select(scores, 4 / 15, {}) == {"b": [0, 1], "c": [0], "d": [0]}
    assert LLMPrunerBlock(local=False).select(scores, 4 / 15, {}) == {"b": [0, 1, 2], "c": [0]}


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(("ratio", "expected"), [(0.1, 3), (0.2, 6), (0.3, 9), (0.5, 15), (0.6, 18)])
def test_whole_groups_go(local, ratio, expected, generator):
    scores = {site: values.repeat_interleave(3) for site, values in random_layers(generator, 5, heads=2).items()}
    removed = LLMPrunerBlock(local=local).select(scores, ratio, dict.fromkeys(scores, 3))
    assert sum(map(len, removed.values())) == expected and not {"layer0", "layer4"} & removed.keys()
    assert all(heads in ([0, 1, 2], [3, 4, 5], [0, 1, 2, 3, 4, 5]) for heads in removed.values())


def test_masks_of_larger_ratios_hold_those_of_smaller_ones(generator):
    scores = random_layers(generator, 9)
    for local in (True, False):
        masks = [LLMPrunerBlock(local=local).select(scores, ratio, {}) for ratio in (0.1, 0.2, 0.4, 0.6)]
        for small, large in itertools.pairwise(masks):
            assert all(set(heads) <= set(large[site]) for site, heads in small.items())


def test_the_pruned_model_is_the_masked_one():
    model, batch = make("llama_grouped"), make_batch("llama_grouped")
    criterion, before = LLMPrunerBlock(keep_first=0), snapshot(model)
    scores = criterion(collect(model, [batch], need={"taylor"}))
    worst = [0, 1, 2] if scores["model.layers.0.self_attn"][0] < scores["model.layers.0.self_attn"][3] else [3, 4, 5]
    with torch.no_grad():
        with masked(model, {"model.layers.0.self_attn": worst}):
            expected = model(**batch).logits
        with criterion.pruned(model, Calibration([batch]), 0.25) as small:
            assert torch.equal(small(**batch).logits, expected)
        assert not torch.equal(model(**batch).logits, expected)
    check_unchanged(model, before)


# --- channel-wise ---

CUT = [
    *("bert", "albert", "distilbert", "modernbert", "gpt2", "pythia", "gpt_bigcode", "gpt_bigcode_heads"),
    *("llama_grouped", "qwen3", "qwen3_next", "afmoe", "vit", "clip", "wav2vec2-conformer"),
]


def logits_of(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def written_by(model):
    """The output projections of all sites, and the input projections, found by the names of this file's models."""
    outputs = ("output.dense", "attention.dense", "out_lin", "Wo", "c_proj", "o_proj", "out_proj", "linear_out")
    for name, module in model.named_modules():
        if getattr(module, "weight", None) is not None and "att" in name and "norm" not in name.lower():
            if "linear_attn" in name or name.endswith(("linear_pos", "relative_attention_bias")):
                continue
            if ".mlp" not in name and "intermediate" not in name:
                yield module, name.endswith(outputs)


def zeroed(model, gone):
    """A copy with the weights (and output biases) of channels at zero instead of cut."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for module, writes in written_by(model):
            stored = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
            if writes:
                stored[gone] = 0
                if module.bias is not None:
                    module.bias[gone] = 0
            else:
                stored[:, gone] = 0
    return model


@pytest.mark.parametrize("name", CUT)
def test_cut_channels_compute_what_zeroed_ones_do(name):
    model, batch = make(name, DOUBLE).eval(), batch_of(name)
    before, dense = snapshot(model), logits_of(model, batch)
    gone = torch.tensor([31, 2, 3, 17])
    with without_channels(one_stream(model), gone):
        cut = logits_of(model, batch)
        left = sum(parameter.numel() for parameter in model.parameters())
    near(cut, logits_of(zeroed(model, gone), batch), 1e-9)
    assert (cut - dense).abs().max() > 1e-3
    assert torch.equal(logits_of(model, batch), dense)
    check_unchanged(model, before)
    removed = sum(
        4 * (module.weight.numel() // width_of(name)) + (4 if writes and module.bias is not None else 0)
        for module, writes in written_by(model)
    )
    assert sum(parameter.numel() for parameter in model.parameters()) - left == removed


def width_of(name):
    """Of the residual stream."""
    return make(name).config.hidden_size if name != "clip" else 35


def test_flops_are_those_of_the_weights_that_are_left():
    model, batch = make("bert"), make_batch("bert")
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    dense = count(model, inputs)
    with without_channels(one_stream(model), torch.arange(9)):
        small = count(model, inputs)
    weights = 2 * 4 * 9 * 35  # layers, matrices, channels, the width of all heads
    assert dense.parameters - small.parameters == weights + 2 * 9  # and biases of the outputs
    assert dense.flops - small.flops == 2 * batch["input_ids"].numel() * weights


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_vectorised_salience_is_the_slope_of_the_loss(name):
    """Scaling what a channel owns by 1 + s changes the mean loss by s times the salience."""
    model, batch = make(name, DOUBLE).eval(), batch_of(name)
    found = channel_saliences(model, one_stream(model), [batch], default_loss(model))
    signed = sum(found[f"{matrix}/vectorised"] for matrix in MATRICES)

    def loss_at(channel, step):
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            for module, writes in written_by(scaled):
                stored = module.weight.T if name == "gpt2" else module.weight
                (stored[channel] if writes else stored[:, channel]).mul_(1 + step)
            return float(default_loss(model)(scaled(input_ids=batch["input_ids"],
                                                    attention_mask=batch["attention_mask"]), batch).mean())  # fmt: skip

    for channel in (0, 13, 34):
        slope = (loss_at(channel, 1e-5) - loss_at(channel, -1e-5)) / 2e-5
        assert slope == pytest.approx(float(signed[channel]), rel=1e-6, abs=1e-8)
    assert signed[[0, 13, 34]].abs().min() > 1e-4


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_ranked_by_the_reduced_salience(kind, reduction):
    model, calibration = make("bert", DOUBLE), Calibration([batch_of("bert")])
    parts = channel_saliences(model, one_stream(model), calibration.batches, default_loss(model))
    columns = [parts[f"{matrix}/{kind}"].tolist() for matrix in MATRICES]
    expected = [BY_HAND[reduction](*values) for values in zip(*columns, strict=True)]
    method = LLMPrunerChannel(kind, reduction)
    near(method.saliences(model, calibration), torch.tensor(expected, dtype=DOUBLE), 1e-12)
    worst = sorted(sorted(range(35), key=lambda channel: expected[channel])[:11])
    with method.pruned(model, calibration, 11 / 35) as small:
        cut = [module for module in small.modules() if isinstance(module, Reading | Writing)]
        assert len(cut) == 8 and {type(module) for module in cut} == {Reading, Writing}
        assert all(sorted({*range(35)} - {*module.channels.tolist()}) == worst for module in cut)


def test_equal_channels_go_by_position():
    model, calibration = zeroed(make("bert", DOUBLE), [29, 7, 11, 3]), Calibration([batch_of("bert")])
    assert (LLMPrunerChannel().saliences(model, calibration) == 0).nonzero()[:, 0].tolist() == [3, 7, 11, 29]
    with LLMPrunerChannel().pruned(model, calibration, 2 / 35) as small:
        query = small.bert.encoder.layer[0].attention.self.query
        assert sorted({*range(35)} - {*query.channels.tolist()}) == [3, 7]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama_grouped"])
def test_nothing_and_everything(name):
    model, batch = make(name).eval(), make_batch(name)
    calibration, dense, method = Calibration([batch]), logits_of(model, batch), LLMPrunerChannel()
    with method.pruned(model, calibration, 0) as small:
        assert not [module for module in small.modules() if isinstance(module, Reading | Writing)]
        assert torch.equal(logits_of(small, batch), dense)
    with method.pruned(model, calibration, 1) as small:
        nothing = logits_of(small, batch)
        outputs = [module for module in small.modules() if isinstance(module, Writing)]
        assert len(outputs) == 2 and all(parameter.numel() == 0 for o in outputs for parameter in o.parameters())
    silent = copy.deepcopy(model)
    for module, writes in written_by(silent):
        if writes:
            module.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    near(nothing, logits_of(silent, batch), 1e-6)
    assert torch.equal(logits_of(model, batch), dense) and not torch.allclose(nothing, dense)


def test_an_error_in_the_block_leaves_the_model_as_it_was():
    model, batch = make("gpt2").train(), make_batch("gpt2")
    model.transformer.h[0].attn.eval().c_proj.weight.requires_grad_(False)
    before, flags = snapshot(model), [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ZeroDivisionError), LLMPrunerChannel().pruned(model, Calibration([batch]), 0.5) as small:
        first, second = (layer.attn for layer in small.transformer.h)
        assert first.c_attn.weight.requires_grad and not first.c_proj.weight.requires_grad
        assert not first.c_attn.training and not first.c_proj.training
        assert second.c_attn.training and second.c_proj.training
        raise ZeroDivisionError
    check_unchanged(model, before)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_cut_channels_keep_up_with_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert Writing(torch.nn.Linear(3, 5), torch.tensor([1]))(torch.ones(2, 3)).dtype == torch.bfloat16
    model, batch = make("bert").eval(), make_batch("bert")
    with without_channels(one_stream(model), torch.arange(5)), torch.autocast("cpu", torch.bfloat16):
        cut = logits_of(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        near(cut.float(), logits_of(zeroed(model, range(5)), batch).float(), 0.05)


@pytest.mark.parametrize("ratio", [-0.1, 1.2])
def test_a_ratio_outside_its_range_is_refused(ratio):
    model = make("bert")
    with (
        pytest.raises(HiesError, match=rf"ratio is {ratio}"),
        LLMPrunerChannel().pruned(model, Calibration([make_batch("bert")]), ratio),
    ):
        pass


@pytest.mark.parametrize("name", CUT)
def test_sites_are_known_by_the_code_alone(name):
    model, batch = make(name), make_batch(name)
    assert sorted(attention_modules(model)) == sorted(find_sites(model, batch))
    model.forward = None  # no forward pass
    LLMPrunerChannel().check(model)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("t5", "two residual streams, of its encoder and its decoder"),
        ("detr", "two residual streams"),
        ("clip_pair", "in several stacks of layers"),
        ("llava", "in several stacks of layers"),
        ("swin", "reads and writes 14, 28 channels"),
        ("zamba", "reads and writes 48, 96 channels"),
        ("deepseek_v3", "through a latent"),
        ("mllama", "from another place than the residual stream"),
        ("bitnet", "cannot be cut out"),
    ],
)
def test_models_without_one_stream_are_refused(name, reason):
    model = make(name)
    model.forward = None
    with pytest.raises(UnsupportedModelError, match=reason):
        LLMPrunerChannel().check(model)


def test_a_pruned_model_is_refused():
    model = prune(make("bert"), {SITES["bert"][0]: [1]})
    with pytest.raises(UnsupportedModelError, match="Heads have been cut out of site"):
        LLMPrunerChannel().check(model)


def test_a_model_without_attention_is_refused():
    model = make("bert")
    model.bert.encoder.layer = torch.nn.ModuleList()
    with pytest.raises(UnsupportedModelError, match="no module that calls"):
        LLMPrunerChannel().check(model)
