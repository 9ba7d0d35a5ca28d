"""The calibration pass against finite differences, eager softmax weights and plain loops."""

import copy
from collections import defaultdict
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES, CLASSES, ENCODER, WORDS
from plain_scoring import (
    eager_attentions,
    examples_of_different_length,
    in_batches,
    plain_loss,
    real_tokens,
    with_exact_norms,
)
from tiny_models import TOKENS, make, make_batch, output_projection
from transformers import BertConfig, BertForTokenClassification, BertLMHeadModel

from hies import HiesError, UnsupportedModelError, collect
from hies.scoring import checkpointing
from hies.scoring.losses import default_loss

# --- head importance --------------------------------------------------------------------------------------------------


@torch.no_grad()
def finite_difference(model, name, batch, site, head, width, step=1e-4):
    """dL(x)/dm of one head by scaling the inputs that the output projection takes from it, [examples]."""

    def loss_at(gate):
        def scale(module, inputs):
            scaled = inputs[0].clone()
            scaled[..., head * width : (head + 1) * width] *= gate
            return (scaled, *inputs[1:])

        handle = output_projection(model, name, site).register_forward_pre_hook(scale)
        try:
            inputs = {key: value for key, value in batch.items() if key != "labels" or name == "t5"}
            return plain_loss(name, model(**inputs).logits, batch["labels"], batch.get("attention_mask"))
        finally:
            handle.remove()

    return (loss_at(1 + step) - loss_at(1 - step)) / (2 * step)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("bert", "right"),
        ("bert_regression", "right"),
        ("llama_grouped", "right"),
        ("llama_grouped", "left"),
        ("gpt2", "right"),
        ("t5", "right"),
        ("vit", None),
        ("swin", None),
        ("llava", "right"),
    ],
)
def test_importance_is_the_finite_difference_of_a_gate(name, side):
    model = with_exact_norms(make(name, torch.float64).eval())
    batch = make_batch(name, side, torch.float64)
    statistics = collect(model, [batch], need=("his",))
    assert tuple(statistics.heads.values()) == ARCHITECTURES[name].heads
    found, expected = [], []
    for site, heads in statistics.heads.items():
        projection = output_projection(model, name, site)
        width = getattr(projection, "in_features", projection.weight.shape[0]) // heads
        columns = [finite_difference(model, name, batch, site, head, width) for head in range(heads)]
        expected.append(torch.stack(columns, dim=1))
        found.append(statistics["his"][site])
        torch.testing.assert_close(statistics.his[site], statistics["his"][site].abs().mean(0))
    found, expected = torch.cat(found, 1), torch.cat(expected, 1)
    assert expected.abs().min() > 1e-9  # every gate is felt
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama_grouped", "gpt2"])
def test_padding_on_either_side_changes_no_importance(name, side, attention):
    model, batch = make(name).eval(), make_batch(name, side)
    model.set_attn_implementation(attention)
    real = batch["attention_mask"].bool()
    if side == "left":
        batch["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
    alone = [{key: value[i : i + 1, real[i]] for key, value in batch.items()} for i in range(len(real))]
    padded, expected = collect(model, [batch], need=("his",)), collect(model, alone, need=("his",))
    for site, gradient in expected["his"].items():
        torch.testing.assert_close(padded["his"][site], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        *((name, wrap) for name in ("llama", "bert", "t5") for wrap in ("lora", "parallel")),
        ("bert", "compiled"),
        *(pytest.param(name, "compiled", marks=pytest.mark.beyond_sample) for name in ("llama", "t5")),  # many seconds
    ],
)
def test_a_wrapped_model_has_the_importance_of_the_model_inside(name, wrap):
    model, batch = make(name).eval(), make_batch(name)
    if name == "bert" and wrap == "compiled":  # each layer takes seconds
        model.bert.encoder.layer = model.bert.encoder.layer[:1]
    expected = collect(model, [batch], need=("his",)).his
    if wrap == "lora":  # an update that is zero at first
        matrix = {"llama": "up_proj", "bert": "intermediate.dense", "t5": "wo"}[name]
        wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=[matrix]))
    else:
        wrapped = torch.compile(model, backend="eager") if wrap == "compiled" else torch.nn.DataParallel(model)
    for found, right in zip(collect(wrapped, [batch], need=("his",)).his.values(), expected.values(), strict=True):
        torch.testing.assert_close(found, right)


def test_importance_of_a_batch_is_not_the_gradient_of_its_sum():
    statistics = collect(make("bert"), [make_batch("bert")], need=("his",))
    for site, gradient in statistics["his"].items():
        assert (statistics.his[site] - gradient.sum(0).abs() / len(gradient)).max() > 1e-4


# --- attention entropy ------------------------------------------------------------------------------------------------


def plain_entropy(calls, real):
    """AE_h(x) [examples, heads] of one site: by loops; a key of weight 0 is not seen."""
    examples, heads = calls[0].shape[:2]
    result = np.full((examples, heads), np.nan)
    for example in range(examples):
        for head in range(heads):
            tokens = []
            for weights in calls:
                for row in weights[example, head][real[example]]:
                    seen = row[row > 0]
                    if len(seen) > 1:
                        tokens.append(-(seen * np.log(seen)).sum() / np.log(len(seen)))
            result[example, head] = np.mean(tokens)
    return result


SIDES = [
    (name, side)
    for name, architecture in ARCHITECTURES.items()
    for side in ("right", "left")
    if name not in ("swin", "llava") and (side == "right" or architecture.reads == "language")
]


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_entropy_is_that_of_the_eager_weights(name, side):
    model, batch = make(name), make_batch(name, side)
    statistics = collect(model, [batch], need=("ae",))
    calls = defaultdict(list)
    for number, weights in enumerate(eager_attentions(model, batch)):
        calls[list(statistics.heads)[number % len(statistics.heads)]].append(weights)
    assert calls.keys() == statistics["ae"].keys()
    for site, weights in calls.items():
        expected = plain_entropy(weights, real_tokens(name, site, batch))
        np.testing.assert_allclose(statistics["ae"][site], expected, atol=1e-5, rtol=0)
        np.testing.assert_allclose(statistics.ae[site], expected.mean(0), atol=1e-5, rtol=0)
        assert expected.std() > 1e-3  # the heads differ, so the comparison says something


def test_attention_to_something_as_long_as_the_text_counts_no_padding():
    sizes = {"hidden_size": 10, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 7}
    model = BertLMHeadModel(
        BertConfig(vocab_size=53, **sizes, is_decoder=True, add_cross_attention=True, initializer_range=2.0)
    )
    text = make_batch("bert")
    read = torch.randn(3, TOKENS + 1, 10, generator=torch.Generator().manual_seed(0))
    found = []
    for keys in (TOKENS, TOKENS + 1):  # the last one hidden from all queries
        shown = (torch.arange(keys) < TOKENS).long().expand(3, -1)
        batch = {"encoder_hidden_states": read[:, :keys], "encoder_attention_mask": shown}
        batch |= {name: text[name] for name in ("input_ids", "attention_mask")}
        found.append(collect(model, [batch], need=("ae",))["ae"]["bert.encoder.layer.0.crossattention.self"])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_without_padding_the_mask_may_be_left_out():
    for name in ("bert", "llama_grouped", "t5"):
        model, batch = make(name), make_batch(name)
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        labels = torch.randint(3, WORDS, batch["labels"].shape) if batch["labels"].dim() == 2 else batch["labels"]
        batch["labels"] = labels
        bare = {key: value for key, value in batch.items() if key != "attention_mask"}
        one, two = collect(model, [batch]), collect(model, [bare])
        for site in one.heads:
            torch.testing.assert_close(one["ae"][site], two["ae"][site], atol=1e-5, rtol=0)
            torch.testing.assert_close(one["his"][site], two["his"][site], atol=1e-5, rtol=1e-4)


def test_entropy_counts_the_prompt_whether_or_not_it_is_labelled():
    for name in ("opt", "llama"):  # OPT names its only stack `decoder`
        model, batch = make(name), make_batch(name)
        answers = batch["labels"].clone()
        answers[:, :3] = -100
        one, two = collect(model, [batch]), collect(model, [{**batch, "labels": answers}])
        for site in one.heads:
            torch.testing.assert_close(one["ae"][site], two["ae"][site])
            assert (one["his"][site] - two["his"][site]).abs().max() > 1e-4


def test_an_example_of_one_token_has_no_entropy_and_does_not_count():
    model, batch = make("bert"), make_batch("bert")
    batch["attention_mask"][1, 1:] = 0
    statistics = collect(model, [batch], need=("ae",))
    for site, entropy in statistics["ae"].items():
        assert entropy[1].isnan().all() and entropy[[0, 2]].isfinite().all()
        torch.testing.assert_close(statistics.ae[site], entropy[[0, 2]].mean(0))


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "opt", "llama_grouped", "t5", "bart_classifier"])
def test_scores_do_not_depend_on_the_batch_size(name):
    model, examples = make(name), examples_of_different_length(name)
    alone, some, together = (collect(model, in_batches(examples, size)) for size in (1, 7, 32))
    assert alone.examples == some.examples == together.examples == 32
    for site in alone.heads:
        assert alone["his"][site].shape == alone["ae"][site].shape == (32, alone.heads[site])
        scale = float(alone.his[site].max())
        for other in (some, together):
            torch.testing.assert_close(other.his[site], alone.his[site], atol=1e-5 * scale, rtol=1e-5)
            torch.testing.assert_close(other.ae[site], alone.ae[site], atol=1e-5, rtol=0)
            torch.testing.assert_close(other["ae"][site], alone["ae"][site], atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["swin", "albert", "llava", "gemma2"])
def test_an_example_is_measured_alike_alone_and_in_a_batch(name):
    model, batch = make(name), make_batch(name)
    together = collect(model, [batch])
    alone = collect(model, [{key: value[i : i + 1] for key, value in batch.items()} for i in range(3)])
    for site in together.heads:
        torch.testing.assert_close(together["ae"][site], alone["ae"][site], atol=1e-5, rtol=0)
        torch.testing.assert_close(together["his"][site], alone["his"][site], atol=1e-5, rtol=1e-4)
        assert together["ae"][site].std(0).min() > 1e-4  # the examples differ


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_statistics_of_every_head(name):
    statistics = collect(make(name), [make_batch(name)])
    assert tuple(statistics.heads.values()) == ARCHITECTURES[name].heads
    for site, heads in statistics.heads.items():
        his, ae = statistics.his[site], statistics.ae[site]
        assert his.shape == ae.shape == (heads,) and his.dtype == ae.dtype == torch.float64
        assert his.isfinite().all() and (his > 0).all()
        assert ((ae > 0) & (ae <= 1)).all()


def test_statistics_are_shown_in_one_line():
    found = collect(make("bert"), [make_batch("bert")], need=("ae", "l2"))
    assert repr(found) == "Statistics(2 sites x 5 heads, 3 examples: ae, l2)"
    assert repr(replace(found, heads={"a": 2, "b": 3}, tensors={})) == (
        "Statistics(2 sites with 5 heads, 3 examples: no statistics)"
    )


def test_collecting_one_statistic_leaves_the_others_out():
    model, batch = make("bert"), make_batch("bert")
    entropy = collect(model, [{key: value for key, value in batch.items() if key != "labels"}], need=("ae",))
    with pytest.raises(HiesError, match=r"'his' was not collected.*need=\('his',\)"):
        _ = entropy.his
    both = collect(model, [batch], need=("his", "ae", "l2"))
    for site in both.heads:
        torch.testing.assert_close(entropy.ae[site], both.ae[site])
    importance = collect(model, [batch], need=("his",))
    for name in ("ae", "l2"):
        with pytest.raises(HiesError, match=f"'{name}' was not collected"):
            getattr(importance, name)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "bert_regression", "vit", "llama", "gpt2", "t5", "bart"])
def test_default_loss_is_the_plain_one(name):
    model, batch = make(name).eval(), make_batch(name)
    with torch.no_grad():
        outputs = model(**batch)
    expected = plain_loss("t5" if name == "bart" else name, outputs.logits, batch["labels"])
    torch.testing.assert_close(default_loss(model)(outputs, batch), expected)


def test_tokens_of_an_encoder_are_classified_where_they_stand():
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(**ENCODER)).eval()
    batch = make_batch("bert")
    labels = torch.randint(0, CLASSES, (3, TOKENS)).masked_fill(batch["attention_mask"] == 0, -100)
    outputs = model(**{**batch, "labels": labels})
    expected = [F.cross_entropy(row, label) for row, label in zip(outputs.logits, labels, strict=True)]
    torch.testing.assert_close(default_loss(model)(outputs, {"labels": labels}), torch.stack(expected))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_one_output_is_a_regression_whatever_the_labels_look_like(dtype, shape):
    model, batch = make("bert_regression").eval(), make_batch("bert_regression")
    labels = torch.tensor([0, 4, 2], dtype=dtype).view(shape)
    with torch.no_grad():
        outputs = model(batch["input_ids"], batch["attention_mask"])
    expected = (outputs.logits[:, 0] - torch.tensor([0.0, 4.0, 2.0])) ** 2
    torch.testing.assert_close(default_loss(model)(outputs, {"labels": labels}), expected)


def without_labels(batch):
    return {key: value for key, value in batch.items() if key != "labels"}


def unlabelled_example(batch):
    return {**batch, "labels": torch.cat([batch["labels"][:2], torch.full((1, TOKENS), -100)])}


@pytest.mark.parametrize(
    ("name", "change", "options", "message"),
    [
        ("bert", without_labels, {}, "no 'labels'"),
        ("llama", unlabelled_example, {}, "no labelled token"),
        ("bert", lambda b: {**b, "labels": torch.rand(3)}, {}, r"shape \(3,\) and torch.float32 do not fit"),
        ("bert", dict, {"need": ("his", "size")}, "need is 'size'; the statistics are his"),
        ("bert", dict, {"need": ("his", 3)}, "need is 3; the statistics are his"),
        ("bert", dict, {"need": None}, "need is None; give names of statistics"),
        ("bert", dict, {"loss": lambda outputs, batch: outputs.logits.mean()}, r"shape \(\) for 3 examples"),
        ("bert", dict, {"loss": lambda outputs, batch: outputs.logits}, r"shape \(3, 3\) for 3 examples"),
    ],
)
def test_mistakes_are_named(name, change, options, message):
    with pytest.raises(HiesError, match=message):
        collect(make(name), [change(make_batch(name))], **options)


def test_a_single_batch_is_not_an_iterable_of_batches():
    with pytest.raises(HiesError, match=r"\[batch\]"):
        collect(make("bert"), make_batch("bert"))


def test_a_model_without_a_head_for_a_task_is_refused():
    with pytest.raises(HiesError, match="no logits"):
        collect(make("bert").bert, [make_batch("bert")])


@pytest.mark.parametrize(("gap", "says"), [(10, None), (40, "zero in float16")])
def test_small_gradients_survive_float16_and_those_that_do_not_are_named(gap, says):
    model, batch = make("bert", torch.float64), make_batch("bert")
    batch["labels"] = torch.zeros_like(batch["labels"])
    with torch.no_grad():
        model.classifier.weight.mul_(0.1)
        model.classifier.bias.copy_(torch.tensor([gap, 0.0, 0.0]))  # the loss is about 2 exp(-gap)
    half = copy.deepcopy(model).half()
    if says:
        with pytest.raises(HiesError, match=says):
            collect(half, [batch], need=("his",))
        return
    exact = collect(half.double(), [batch], need=("his",)).his
    for site, found in collect(half.half(), [batch], need=("his",)).his.items():
        torch.testing.assert_close(found, exact[site], rtol=0.1, atol=0)


def test_a_loss_too_large_to_be_scaled_in_float16_is_not_scaled():
    model, batch = make("bert"), make_batch("bert")
    half = copy.deepcopy(model).half()

    def large(outputs, batch):
        return 3000 * outputs.logits[:, 1].float()

    exact, found = (collect(one, [batch], ("his",), large).his for one in (half.float(), half.half()))
    for site, values in found.items():
        assert 3000 > values.max() > 65504 / 1024  # more than what fits after scaling
        torch.testing.assert_close(values, exact[site], rtol=0.05, atol=0.05 * float(exact[site].max()))


@pytest.mark.parametrize("need", ["output_norm", "ae", "his"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_input_that_is_not_finite_names_its_example_and_is_not_taken_for_padding(need, value):
    model, batch = make("vit"), make_batch("vit")
    bad = batch["pixel_values"].clone()
    bad[1, 0, 0, 0] = value
    with pytest.raises(HiesError, match=r"Example 4 has .* not finite"):
        collect(model, [batch, {**batch, "pixel_values": bad}], (need,))


def test_a_query_that_sees_one_key_is_not_taken_for_one_that_is_not_finite():
    one = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.tensor([[1]]), "labels": torch.tensor([1])}
    found = collect(make("bert"), [make_batch("bert"), one], ("ae",))
    assert all(values[3].isnan().all() and values[:3].isfinite().all() for values in found["ae"].values())


def test_layers_are_computed_again_for_taylor_too(monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return again(*args, **kwargs)

    again = checkpointing.checkpoint
    monkeypatch.setattr(checkpointing, "checkpoint", counted)
    model, batch = make("llama", torch.float64), make_batch("llama")
    plain, found = (collect(model, [batch], ("taylor", "greedy"), checkpoint=value) for value in (False, True))
    assert calls.count(True) >= 2 * len(batch["labels"])  # both layers of every example
    for name in plain:
        assert all(torch.equal(found[name][site], values) for site, values in plain[name].items())


def test_gradients_inside_inference_mode_are_refused():
    with torch.inference_mode(), pytest.raises(HiesError, match=r"use torch\.no_grad"):
        collect(make("bert"), [make_batch("bert")])


def test_no_example_is_an_error():
    with pytest.raises(HiesError, match="no calibration example"):
        collect(make("bert"), [])


def test_a_loss_of_ones_own():
    model, batch = make("bert", torch.float64), make_batch("bert")
    found = collect(model, [batch], loss=lambda outputs, batch: 2 * outputs.logits[:, 1])
    default = collect(model, [batch], loss=lambda outputs, batch: outputs.logits[:, 1])
    for site in found.heads:
        torch.testing.assert_close(found.his[site], 2 * default.his[site])


def test_a_gradient_that_is_not_finite_names_the_site_and_the_example():
    model, batch = make("bert"), make_batch("bert")

    good, bad = torch.tensor([1, 2, 1]), torch.tensor([1, 2, 0])

    def loss(outputs, batch):
        return outputs.logits[:, 0] / batch["labels"]

    with pytest.raises(HiesError, match=r"Example 5 .*'bert\.encoder\.layer\.0\.attention\.self'"):
        collect(model, [{**batch, "labels": good}, {**batch, "labels": bad}], loss=loss)


# --- weight norms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "names", "group"),
    [
        ("bert", ("query", "key", "value"), 1),
        ("llama_grouped", ("q_proj", "k_proj", "v_proj"), 3),
        ("t5", ("q", "k", "v"), 1),
        ("vit", ("q_proj", "k_proj", "v_proj"), 1),
    ],
)
def test_weight_norm_is_that_of_the_rows_and_columns_of_a_head(name, names, group):
    model = make(name)
    statistics = collect(model, [make_batch(name)], need=("l2",))
    for site, heads in statistics.heads.items():
        module = model.get_submodule(site)
        query, key, value = (getattr(module, name).weight.detach().double() for name in names)
        output = output_projection(model, name, site).weight.detach().double()
        width = output.shape[1] // heads
        for head in range(heads):
            own, shared = (slice(h * width, (h + 1) * width) for h in (head, head // group))
            parts = (query[own], key[shared], value[shared], output[:, own])
            expected = sum(float(x) ** 2 for part in parts for x in part.flatten()) ** 0.5
            assert abs(statistics.l2[site][head] - expected) < 1e-10


def test_weights_under_unknown_names_are_refused_by_site():
    model, batch = make("bert"), make_batch("bert")
    layer = model.bert.encoder.layer[0].attention.self
    layer.key = torch.nn.Sequential(layer.key)
    with pytest.raises(UnsupportedModelError, match=r"'bert\.encoder\.layer\.0\.attention\.self'"):
        collect(model, [batch], need=("l2",))


# --- silent change ----------------------------------------------------------------------------------------------------

GOLDEN = {
    "his": [
        [0.1229835, 0.2230006, 0.09332873, 0.04206045, 0.1404535],
        [0.1158343, 0.09558658, 0.1925391, 0.1326518, 0.159407],
    ],
    "ae": [
        [0.5890366, 0.5521613, 0.6380643, 0.5327168, 0.636461],
        [0.7189793, 0.7565921, 0.7226475, 0.7859796, 0.8032343],
    ],
    "l2": [
        [9.15197, 9.981234, 9.229057, 9.410046, 9.744763],
        [9.432594, 9.396724, 9.327238, 9.464863, 9.596564],
    ],
}


def test_scores_of_a_seeded_model_have_not_changed():
    statistics = collect(make("bert"), [make_batch("bert")], need=("his", "ae", "l2"))
    for name, expected in GOLDEN.items():
        found = torch.stack(list(getattr(statistics, name).values()))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)
