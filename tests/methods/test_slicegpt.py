"""SliceGPT: rotations that change nothing, cuts against computations by hand, and what is refused."""

import copy
import sys

import numpy as np
import pytest
import torch
import transformers as tf
from architectures import GROUPED
from checks import Double
from tiny_models import LENGTHS, make, make_batch

import hies
from hies import HiesError, UnsupportedModelError
from hies.batching import Encoded
from hies.efficiency.cost import count
from hies.methods import Calibration
from hies.methods.slicegpt import tuning
from hies.methods.slicegpt.bases import principal_basis, reflections, second_moment
from hies.methods.slicegpt.calls import record
from hies.methods.slicegpt.model import family_of, sliced
from hies.methods.slicegpt.modules import SlicedNorm
from hies.methods.slicegpt.slicegpt import SliceGPT

SUPPORTED = ("bert", "bert_regression", "roberta", "llama", "llama_grouped", "mistral", "qwen2", "qwen3")
KINDS = ("bert", "llama_grouped")  # one of each family
WIDTH = {"bert": 35, "llama_grouped": 48}


def inputs(name, side="right", dtype=torch.float64, seed=1):
    batch = make_batch(name, side, dtype, seed)
    batch.pop("labels")
    return batch


@torch.no_grad()
def answers(model, batch):
    """Logits, those of padded tokens left out."""
    with Double():
        logits = model(**batch).logits
    return logits[batch["attention_mask"].bool()] if logits.dim() == 3 else logits


def cut(model, batches, width):
    with Double():
        return sliced(model, batches, width, 0.01)


def axes(signal):
    """Principal axes of [tokens, d], largest first, by numpy."""
    _, vectors = np.linalg.eigh(signal.T @ signal / len(signal))
    return vectors[:, ::-1]


@pytest.fixture
def tokens(generator):
    return torch.randn(29, 7, generator=generator, dtype=torch.float64) * torch.arange(1, 8)


# --- equations ---


def test_the_second_moment_is_the_mean_outer_product(tokens):
    expected = sum(np.outer(row, row) for row in tokens.numpy()) / 29
    found = second_moment([tokens[:10].float().double(), tokens[10:]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(second_moment([tokens]), expected, rtol=1e-13)
    assert second_moment([tokens.float()]).dtype == torch.float64


def test_the_axes_are_those_of_numpy_whatever_the_damping(tokens):
    moment = second_moment([tokens])
    expected = np.linalg.eigvalsh(moment)[::-1]
    for damping in (0.0, 0.01, 3.0):
        values, basis = principal_basis(moment, damping)
        np.testing.assert_allclose(values, expected + damping * np.diag(moment).mean(), rtol=1e-12)
        np.testing.assert_allclose(basis.T @ basis, np.eye(7), atol=1e-13)
        np.testing.assert_allclose(moment @ basis, basis * torch.tensor(expected.copy()), atol=1e-11)
        peaks = basis[basis.abs().argmax(dim=0), torch.arange(7)]
        assert (peaks > 0).all()


def test_no_token_and_no_finite_signal_are_refused(tokens):
    with pytest.raises(HiesError, match="no tokens"):
        second_moment([tokens[:0]])
    tokens[3, 2] = torch.nan
    with pytest.raises(HiesError, match="not finite"):
        second_moment([tokens])


# --- nothing cut ---


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_a_model_of_which_nothing_is_cut_gives_the_same_answers(name, side):
    model, batch = make(name, torch.float64).eval(), inputs(name, side)
    found = cut(model, [batch], family_of(model).width)
    torch.testing.assert_close(answers(found, batch), answers(model, batch), rtol=1e-9, atol=1e-9)
    other = inputs(name, side, seed=5)  # not what the bases come from
    torch.testing.assert_close(answers(found, other), answers(model, other), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_a_ratio_of_zero_gives_the_same_answers_in_float32(name):
    model, batch = make(name).eval(), make_batch(name)
    expected = model(**batch).logits.detach()
    with SliceGPT().pruned(model, Calibration([batch]), 0) as found:
        assert found is not model and not found.training
        torch.testing.assert_close(found(**batch).logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", KINDS)
def test_any_rotation_gives_the_same_answers(name):
    model, batch = make(name, torch.float64).eval(), inputs(name)
    rotated = []
    for seed in (1, 2):
        copied = copy.deepcopy(model)
        family = family_of(copied)
        with Double():
            family.slice(record(copied, family.first, family.attention, [batch], reflections(seed)))
        torch.testing.assert_close(answers(copied, batch), answers(model, batch), rtol=1e-9, atol=1e-9)
        rotated.append(family_of_weights(copied))
    assert not torch.allclose(rotated[0], rotated[1])


def family_of_weights(model):
    """The query matrix of the first layer."""
    return next(p for name, p in model.named_parameters() if name.endswith(("query.weight", "q_proj.weight")))


# --- cuts, by hand ---


def standardised(z, eps):
    centred = z - z.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps)


def projected(z, basis, eps):
    """What is left of a LayerNorm's output when the centred input is projected onto the columns of the basis."""
    centred = (z - z.mean(1, keepdims=True)) @ basis @ basis.T
    return centred / np.sqrt((centred**2).sum(1, keepdims=True) / z.shape[1] + eps)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def bert_by_hand(model, examples, width):
    """Hidden states of a sliced BERT for examples without padding, all of full width: a projection at every place."""
    p = {name: parameter.detach().numpy() for name, parameter in model.bert.named_parameters()}
    eps, heads = model.config.layer_norm_eps, model.config.num_attention_heads

    def affine(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def normed(zs, name, before=standardised):
        basis = axes(np.concatenate([before(z, eps) for z in zs]))[:, :width]
        after = [
            before(z, eps) @ basis @ basis.T if name == "embeddings.LayerNorm" else projected(z, basis, eps) for z in zs
        ]
        return [p[f"{name}.weight"] * n + p[f"{name}.bias"] for n in after]

    def attention(x, name):
        q, k, v = (np.split(affine(x, f"{name}.{part}"), heads, axis=1) for part in ("query", "key", "value"))
        mixed = [softmax(a @ b.T / a.shape[1] ** 0.5) @ c for a, b, c in zip(q, k, v, strict=True)]
        return np.concatenate(mixed, axis=1)

    def gelu(x):
        return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()

    words = [p["embeddings.word_embeddings.weight"][ids] for ids in examples]
    hidden = [
        w + p["embeddings.position_embeddings.weight"][: len(w)] + p["embeddings.token_type_embeddings.weight"][0]
        for w in words
    ]
    hidden = normed(hidden, "embeddings.LayerNorm")
    for i in range(model.config.num_hidden_layers):
        at = f"encoder.layer.{i}"
        mixed = [attention(h, f"{at}.attention.self") for h in hidden]
        z = [affine(m, f"{at}.attention.output.dense") + h for m, h in zip(mixed, hidden, strict=True)]
        hidden = normed(z, f"{at}.attention.output.LayerNorm")
        inner = [gelu(affine(h, f"{at}.intermediate.dense")) for h in hidden]
        z = [affine(m, f"{at}.output.dense") + h for m, h in zip(inner, hidden, strict=True)]
        hidden = normed(z, f"{at}.output.LayerNorm")
    return hidden


@pytest.mark.parametrize(("width", "eps"), [(1, 1e-12), (13, 0.3), (21, 1e-12)])
def test_a_sliced_bert_is_what_the_equations_say(width, eps):
    model, batch = make("bert", torch.float64).eval(), inputs("bert")
    model.config.layer_norm_eps = eps
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = eps
    examples = [row[:length].numpy() for row, length in zip(batch["input_ids"], LENGTHS, strict=True)]
    expected = np.concatenate(bert_by_hand(model, examples, width))
    with torch.no_grad():
        found = cut(model, [batch], width).bert(**batch).last_hidden_state[batch["attention_mask"].bool()]
        dense = model.bert(**batch).last_hidden_state[batch["attention_mask"].bool()]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    assert (found - dense).norm() > 0.01 * dense.norm()


@torch.no_grad()
def llama_by_hand(model, examples, width):
    """Logits of a sliced LLaMA for examples without padding: a projection of the residual at every place."""
    body = model.model

    def project(xs):
        basis = torch.from_numpy(axes(torch.cat(xs, 1)[0].numpy())[:, :width].copy())
        return [x @ basis @ basis.T for x in xs]

    residual = project([body.embed_tokens(ids[None]) for ids in examples])
    for layer in body.layers:
        for i, x in enumerate(residual):
            places = body.rotary_emb(x, position_ids=torch.arange(x.shape[1])[None])
            read = layer.input_layernorm(x)
            residual[i] = x + layer.self_attn(read, position_embeddings=places, attention_mask=None)[0]
        residual = [x + layer.mlp(layer.post_attention_layernorm(x)) for x in project(residual)]
        residual = project(residual)
    return [model.lm_head(body.norm(x))[0] for x in residual]


@pytest.mark.parametrize("width", [1, 13, 20])
@pytest.mark.parametrize("name", ["llama", "llama_grouped", "qwen2"])
def test_a_sliced_llama_is_what_the_equations_say(name, width):
    model, batch = make(name, torch.float64).eval(), inputs(name)
    examples = [row[:length] for row, length in zip(batch["input_ids"], LENGTHS, strict=True)]
    with Double():
        expected = torch.cat(llama_by_hand(model, examples, width))
    torch.testing.assert_close(answers(cut(model, [batch], width), batch), expected, rtol=1e-8, atol=1e-8)
    assert (expected - answers(model, batch)).norm() > 0.01 * expected.norm()


def first_place(model, name, batch):
    """The signal of full width at the first place, real tokens."""
    seen = []
    module = model.bert.embeddings.LayerNorm if name == "bert" else model.model.embed_tokens
    hook = module.register_forward_hook(lambda module, given, made: seen.append(given[0] if name == "bert" else made))
    answers(model, batch)
    hook.remove()
    signal = seen[0][batch["attention_mask"].bool()].detach().numpy()
    return standardised(signal, model.config.layer_norm_eps) if name == "bert" else signal


def entering(small, name):
    """The matrix of a cut model from d dimensions to the first coordinates, [width, d]."""
    enter = small.bert.embeddings.LayerNorm[1] if name == "bert" else small.model.layers[0].enter
    return enter.weight.detach().numpy()


@pytest.mark.parametrize("name", KINDS)
def test_what_the_first_cut_loses_are_the_smallest_eigenvalues_of_real_tokens(name):
    model, batch, width = make(name, torch.float64).eval(), inputs(name), 11
    signal = first_place(model, name, batch)
    small = cut(model, [batch], width)
    matrix = entering(small, name)
    lost = ((signal - signal @ matrix.T @ matrix) ** 2).sum(1).mean()
    values = np.linalg.eigvalsh(signal.T @ signal / len(signal))[::-1]
    np.testing.assert_allclose(lost, values[width:].sum(), rtol=1e-10)
    assert len(signal) == sum(LENGTHS) and lost > 0.001 * values.sum()


@pytest.mark.parametrize("name", KINDS)
def test_a_damping_that_drowns_the_signal_hides_its_axes(name):
    """Beside an identity so large, the second moment is lost in rounding."""
    model, batch = make(name, torch.float64).eval(), inputs(name)
    signal = first_place(model, name, batch)
    lost = []
    for damping in (0.0, 100.0, 1e30):
        with SliceGPT(damping=damping).pruned(model, Calibration([batch]), 0.7) as small:
            matrix = entering(small, name)
        lost.append(((signal - signal @ matrix.T @ matrix) ** 2).sum())
    assert lost[1] == pytest.approx(lost[0], rel=1e-9) and lost[2] > 1.5 * lost[0]


@pytest.mark.parametrize("name", KINDS)
def test_neither_padding_nor_batches_change_the_cut(name):
    model, batch = make(name, torch.float64).eval(), inputs(name)
    rows = [
        {key: value[i : i + 1, :length] for key, value in batch.items()} for i, length in enumerate(LENGTHS)
    ]  # without padding
    del rows[1]["attention_mask"]
    torch.testing.assert_close(
        answers(cut(model, rows, 17), batch), answers(cut(model, [batch], 17), batch), rtol=1e-8, atol=1e-8
    )


def test_texts_packed_into_one_row_do_not_change_the_cut():  # of nine tokens, which have nine axes
    model, batch = make("llama_grouped", torch.float64).eval(), inputs("llama_grouped")
    rows = [{"input_ids": batch["input_ids"][[0], :5]}, {"input_ids": batch["input_ids"][[1], :4]}]
    packed = {"input_ids": torch.cat([row["input_ids"] for row in rows], dim=1)}
    packed["position_ids"] = torch.tensor([[*range(5), *range(4)]])
    torch.testing.assert_close(
        answers(cut(model, [packed], 7), batch), answers(cut(model, rows, 7), batch), rtol=1e-8, atol=1e-8
    )


# --- what is left ---


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("name", KINDS)
def test_the_share_of_the_attention_weights_goes_and_no_head(name, ratio):
    model, batch = make(name).eval(), make_batch(name)
    matrices = (
        ("query", "key", "value", "attention.output.dense")
        if name == "bert"
        else ("q_proj", "k_proj", "v_proj", "o_proj")
    )

    def weights(model):
        return sum(p.numel() for n, p in model.named_parameters() if n.removesuffix(".weight").endswith(matrices))

    with SliceGPT().pruned(model, Calibration([batch]), ratio) as small:
        assert weights(small) * WIDTH[name] == weights(model) * (WIDTH[name] - round(ratio * WIDTH[name]))
        sites, before = hies.find_sites(small, inputs(name)), hies.find_sites(model, inputs(name))
        assert {n: (s.heads, s.width) for n, s in sites.items()} == {n: (s.heads, s.width) for n, s in before.items()}
        assert small(**batch).logits.isfinite().all()
        if ratio > 0.3:
            assert count(small, inputs(name)).flops < count(model, inputs(name)).flops


@pytest.mark.parametrize("name", KINDS)
def test_one_example_of_one_token_is_enough(name):
    model = make(name, torch.float64).eval()
    batch = {"input_ids": torch.tensor([[5]])}
    found = cut(model, [batch], 7)
    with torch.no_grad(), Double():
        torch.testing.assert_close(found(**batch).logits.shape, model(**batch).logits.shape)
        assert found(**batch).logits.isfinite().all()


@pytest.mark.parametrize("name", KINDS)
def test_both_attention_implementations_agree(name):
    model, batch = make(name, torch.float64).eval(), inputs(name)
    small = cut(model, [batch], 17)
    found = answers(small, batch)
    small.set_attn_implementation("eager")
    torch.testing.assert_close(answers(small, batch), found, rtol=1e-9, atol=1e-9)


def test_a_sliced_model_generates_with_a_cache_as_without():
    model, batch = make("llama_grouped").eval(), make_batch("llama_grouped")
    small = sliced(model, [batch], 19, 0.01)
    prompt = {"input_ids": batch["input_ids"][:1, :5], "attention_mask": batch["attention_mask"][:1, :5]}
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": -1}
    cached = small.generate(**prompt, use_cache=True, **options)
    assert cached.shape[1] == 11 and torch.equal(cached, small.generate(**prompt, use_cache=False, **options))


@pytest.mark.parametrize("name", KINDS)
def test_it_runs_in_bfloat16(name):
    model, batch = make(name).eval(), make_batch(name)
    small = sliced(model, [batch], 29, 0.01)
    expected = small(**batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = small(**batch).logits
    assert (found.float() - expected).norm() < 0.1 * expected.norm()
    half = make(name, torch.bfloat16).eval()
    with SliceGPT().pruned(half, Calibration([batch]), 0.2) as small:
        assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
        assert small(**batch).logits.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_norm_of_half_precision_squares_in_float32(dtype, generator):
    hidden = (300 * torch.randn(5, 11, 7, generator=generator)).to(dtype)  # float16 ends at 65504
    precise = hidden.double()
    expected = precise / (precise.square().sum(-1, keepdim=True) / 13 + 1e-5).sqrt()
    found = SlicedNorm(13, 1e-5)(hidden)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0.51 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_the_model_stays_bit_for_bit_and_the_cut_repeats(name, tune):
    model, batch = make(name), make_batch(name)
    next(model.parameters()).requires_grad_(False)
    model(**batch).loss.backward()
    before = copy.deepcopy(model)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    kept = []
    method = SliceGPT(tune=tune, tune_examples=3, tune_batch_size=2, tune_rank=2)
    for _ in range(2):
        with method.pruned(model, Calibration([batch], rows_of(batch)), 0.4) as small:
            kept.append({key: value.clone() for key, value in small.state_dict().items()})
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])
    assert repr(model) == repr(before) and model.training
    for (key, parameter), old, gradient in zip(model.named_parameters(), before.parameters(), gradients, strict=True):
        assert torch.equal(parameter, old) and parameter.requires_grad == old.requires_grad, key
        assert (gradient is None and parameter.grad is None) or torch.equal(parameter.grad, gradient), key
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("t5", "its decoder reads two residuals"),
        ("vit", "it reads pixel_values"),
        ("gpt2", "neither the parts of BERT's nor those of LLaMA's"),
        ("albert", "neither the parts of BERT's nor those of LLaMA's"),
        ("electra", "its part 'embeddings_project' is not known"),
        ("gemma", r"GemmaRMSNorm does not compute gain \* x"),
        ("gemma2", "pre_feedforward_layernorm"),
        ("cohere", "CohereLayerNorm does not compute"),
        ("olmo", "an RMSNorm with a gain does not stand before both blocks"),
        ("mixtral", r"its layers have no plain matrix 'mlp\.gate_proj'"),
        ("flint", r"its layers have weights 'self_attn\.sinks'"),
        ("xmod", r"its layers have weights 'output\.adapter_modules"),
    ],
)
def test_a_model_of_another_build_is_refused_by_its_structure(name, reason):
    with pytest.raises(UnsupportedModelError, match=rf"cannot be sliced: .*{reason}.*\.$"):
        SliceGPT().check(make(name))


def test_a_model_without_some_of_its_heads_is_refused():
    model = hies.prune(make("bert"), {"bert.encoder.layer.0.attention.self": [1]})
    with pytest.raises(UnsupportedModelError, match="heads have been cut out of it; slice the dense model"):
        SliceGPT().check(model)


def test_a_norm_of_another_kind_is_refused():
    model = make("bert")
    model.bert.encoder.layer[1].output.LayerNorm = torch.nn.LayerNorm(35, bias=False)
    with pytest.raises(UnsupportedModelError, match="a LayerNorm with gain and bias"):
        SliceGPT().check(model)


def granite(multiplier, dtype):
    torch.manual_seed(0)
    return tf.GraniteForCausalLM(tf.GraniteConfig(**GROUPED, residual_multiplier=multiplier)).eval().to(dtype)


@pytest.mark.parametrize(("dtype", "multiplier"), [(torch.float32, 0.9), (torch.bfloat16, 0.3)])
def test_a_computation_that_slicing_does_not_know_is_found_out(dtype, multiplier):
    batch, model = make_batch("llama_grouped"), granite(multiplier, dtype)
    SliceGPT().check(model)  # by its parts it looks like LLaMA
    with (
        pytest.raises(UnsupportedModelError, match="something that slicing does not know"),
        SliceGPT().pruned(model, Calibration([batch]), 0.1),
    ):
        pass
    with SliceGPT().pruned(granite(1.0, dtype), Calibration([batch]), 0.1) as small:
        assert small(**batch).logits.isfinite().all()


def refused(ratio=0.3, calibration=None, model=None, **knobs):
    batch = make_batch("bert")
    with SliceGPT(**knobs).pruned(model or make("bert"), calibration or Calibration([batch]), ratio):
        pass


NOTHING = r"leaves none of the 35 dimensions that slicing cuts; it must be below 0\.9857"


@pytest.mark.parametrize(
    ("ratio", "says"), [(1, NOTHING), (0.99, NOTHING), *((out, f"ratio is {out}") for out in (-0.1, 1.1, float("nan")))]
)
def test_a_ratio_outside_its_range_or_that_leaves_nothing_is_refused(ratio, says):
    with pytest.raises(HiesError, match=says):
        refused(ratio)


def test_no_calibration_example_no_width_and_answers_that_are_not_finite_are_refused():
    with pytest.raises(HiesError, match="no calibration example"):
        sliced(make("bert"), [], 7, 0.01)
    with pytest.raises(HiesError, match="width is 36; it must be from 1 to the 35"):
        sliced(make("bert"), [make_batch("bert")], 36, 0.01)
    model = make("bert")
    with torch.no_grad():
        model.classifier.bias[1] = torch.nan
    with pytest.raises(HiesError, match="answers that are not finite"):
        refused(model=model)


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"damping": -0.1}, r"damping is -0\.1"),
        ({"damping": float("nan")}, r"damping is nan"),
        ({"tune_learning_rate": 0.0}, r"tune_learning_rate is 0\.0"),
        ({"tune_epochs": 0}, r"tune_epochs is 0; it must be at least 1"),
        ({"tune_rank": 0}, r"tune_rank is 0"),
        ({"tune_examples": 0}, r"tune_examples is 0"),
        ({"tune_batch_size": -1}, r"tune_batch_size is -1"),
    ],
)
def test_knobs_outside_their_range_are_refused(knobs, sentence):
    with pytest.raises(HiesError, match=sentence):
        SliceGPT(**knobs)


def test_settings_of_a_tuning_count_only_where_there_is_one():
    assert SliceGPT(tune_rank=3).knobs == {"tune": False, "damping": 0.01} and not SliceGPT().tunes
    assert SliceGPT(tune=True, tune_rank=3).tunes
    assert SliceGPT(tune=True, tune_rank=3).knobs == {
        **{"tune": True, "damping": 0.01, "tune_epochs": 2, "tune_learning_rate": 1e-3},
        **{"tune_rank": 3, "tune_examples": 6000, "tune_batch_size": 32},
    }


# --- tuning ---


def rows_of(batch):
    """The examples of a batch, not padded."""
    real = batch["attention_mask"].bool()
    rows = []
    for i in range(len(real)):
        row = {key: value[i] if value[i].dim() == 0 else value[i][real[i]] for key, value in batch.items()}
        rows.append(row)
    return Encoded(rows, {"input_ids": 0, "labels": -100})


@pytest.fixture(scope="module")
def task():
    """A model, calibration batches, and examples whose class is told by their first word."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(60):
        words = torch.randint(3, 52, (int(torch.randint(3, 11, (1,), generator=generator)),), generator=generator)
        words[0] = 3 + i % 3
        rows.append({"input_ids": words, "attention_mask": torch.ones_like(words), "labels": torch.tensor(i % 3)})
    train = Encoded(rows, {"input_ids": 0})
    return make("bert").eval(), train.batch(list(range(8))), train


@torch.no_grad()
def loss(model, train):
    return float(model(**train.batch(list(range(len(train))))).loss)


def tuned(task, seed=0, **knobs):
    model, batch, train = task
    torch.rand(1)  # the result depends on the seed, not on what was drawn before
    state = torch.get_rng_state()
    method = SliceGPT(tune=True, tune_batch_size=8, tune_rank=4, **knobs)
    with method.pruned(model, Calibration([batch], train, seed), 0.5) as small:
        assert torch.equal(torch.get_rng_state(), state)
        return small


def test_tuning_lowers_the_training_loss_and_repeats(task):
    model, batch, train = task
    with SliceGPT().pruned(model, Calibration([batch]), 0.5) as plain:
        before = loss(plain, train)
    one, same, other = (tuned(task, seed, tune_epochs=4, tune_learning_rate=1e-2) for seed in (0, 0, 1))
    assert loss(one, train) < 0.8 * before and not one.training
    state, again, different = one.state_dict(), same.state_dict(), other.state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert any(not torch.equal(state[key], different[key]) for key in state)


def test_tuning_changes_the_matrices_of_the_layers_alone_and_leaves_no_trace(task):
    model, batch, _ = task
    with SliceGPT().pruned(model, Calibration([batch]), 0.5) as plain:
        before = plain.state_dict()
    small = tuned(task)
    after = small.state_dict()
    assert before.keys() == after.keys() and repr(small) == repr(plain)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    layers = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    layers += ("attention.output.shortcut", "intermediate.dense", "output.dense", "output.shortcut")
    expected = {f"bert.encoder.layer.{i}.{name}.weight" for i in range(2) for name in layers}
    assert changed == expected


def test_tuning_takes_no_more_examples_than_asked_for_and_draws_them(task, monkeypatch):
    seen = []
    monkeypatch.setattr(tuning, "finetune", lambda model, train, *others: seen.append((train, others)))
    for seed in (0, 1):
        tuned(task, seed, tune_examples=7, tune_epochs=3)
    tuned(task, tune_examples=1000)
    (one, others), (other, _), (every, _) = seen
    assert [len(train) for train in (one, other, every)] == [7, 7, 60] and one.pad == task[2].pad
    drawn = [{id(row) for row in train.features} for train in (one, other)]
    assert drawn[0] != drawn[1] and all(len(rows) == 7 for rows in drawn)
    assert others[1].epochs == 3 and others[1].batch_size == 8 and others[1].seed == 0


def test_updates_of_the_rank_asked_for_count_once(task, monkeypatch):
    model, batch, train = task
    products = {}

    def update(small, train, *others):
        """Let every update be a random one."""
        assert others[-1] == "bfloat16"
        for name, module in small.named_modules():
            if hasattr(module, "lora_A"):
                left, right = module.lora_B["default"].weight, module.lora_A["default"].weight
                assert left.shape[1] == right.shape[0] == 3
                torch.nn.init.normal_(left)
                products[f"{name}.weight"] = (left @ right).detach()

    monkeypatch.setattr(tuning, "finetune", update)
    with SliceGPT().pruned(model, Calibration([batch]), 0.5) as plain:
        before = plain.state_dict()
    calibration = Calibration([batch], train, precision="bfloat16")
    with SliceGPT(tune=True, tune_rank=3).pruned(model, calibration, 0.5) as small:
        after = small.state_dict()
    assert len(products) == 16
    for name, product in products.items():
        torch.testing.assert_close(after[name] - before[name], product, rtol=1e-4, atol=1e-5)


def test_nothing_is_tuned_where_nothing_was_cut(task, monkeypatch):
    monkeypatch.setattr(tuning, "finetune", None)
    model, batch, train = task
    with SliceGPT(tune=True).pruned(model, Calibration([batch], train), 0.01) as small:
        torch.testing.assert_close(small(**batch).logits, model(**batch).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [None, Encoded([], {})])
def test_tuning_without_training_examples_is_refused(train):
    with pytest.raises(HiesError, match="tune is true, but there are no training examples"):
        refused(calibration=Calibration([make_batch("bert")], train), tune=True)


def test_tuning_without_peft_is_refused_in_one_sentence(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(HiesError, match=r"needs the package peft: pip install -e '\.\[tuning\]'"):
        tuned(task)


def test_a_loss_that_is_not_finite_names_the_knob_of_the_criterion(task):
    with pytest.raises(HiesError, match=r"^tune_learning_rate is .*, so give a lower one"):
        tuned(task, tune_learning_rate=1e30)
