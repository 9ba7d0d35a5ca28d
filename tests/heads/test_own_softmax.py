"""Models whose attention modules compute a softmax of their own: found, scored and masked as the others are."""

import warnings

import checks
import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from own_softmax_models import OWN_SOFTMAX
from tiny_models import make, make_batch
from torch import nn
from torch.utils._pytree import tree_leaves

import hies
from hies.heads import inputs, own_softmax
from hies.heads.calls import hidden_in


@pytest.mark.parametrize("name", OWN_SOFTMAX)
def test_nothing_changes_where_nothing_is_masked(name):
    model, batch = make(name).eval(), checks.inputs_of(name, dtype=torch.float32)
    checks.run(model, batch)  # BigBird chooses its modules here
    before = checks.run(model, batch)
    with hies.masked(model, {}):
        assert torch.equal(checks.run(model, batch), before)
    assert torch.equal(checks.run(model, batch), before)
    assert not any("forward" in vars(module) for module in model.modules())


# --- modules of one's own ---------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Three heads of five; `way` is what a subclass's forward makes of its weights."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.qkv, self.proj = 3, nn.Linear(15, 45), nn.Linear(15, 15)
        self.mixing = nn.Linear(3, 3)

    def weights(self, query, key):
        return (query @ key.mT * 5**-0.5).softmax(-1)

    def output(self, weights, value):
        return weights @ value

    def forward(self, hidden):
        parts = self.qkv(hidden).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4)  # [3, batch, heads, tokens, width]
        output = self.output(self.weights(*parts[:2]), parts[2])
        return self.proj(output.transpose(1, 2).flatten(2))


class Fused(Attention):
    def forward(self, hidden):
        query, key, value = self.qkv(hidden).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Transposed(Attention):
    def output(self, weights, value):
        return (value.mT @ weights.mT).mT


class Summed(Attention):
    def output(self, weights, value):
        return torch.einsum("bhqk,bhkd->bqhd", weights, value).transpose(1, 2)


class Behind(Attention):
    """Heads behind the queries."""

    def forward(self, hidden):
        query, key, value = self.qkv(hidden).unflatten(-1, (3, 3, 5)).permute(2, 0, 1, 3, 4)
        weights = (torch.einsum("bqhd,bkhd->bqhk", query, key) * 5**-0.5).softmax(-1)
        return self.proj(self.output(weights, value).flatten(2))

    def output(self, weights, value):
        return torch.einsum("bqhk,bkhd->bqhd", weights, value)


class Moved(Behind):
    def output(self, weights, value):
        return (weights.transpose(1, 2) @ value.transpose(1, 2)).transpose(1, 2)


class Talking(Attention):
    def output(self, weights, value):
        return self.mixing(weights.transpose(1, 3)).transpose(1, 3) @ value


class Bypassed(Attention):
    def output(self, weights, value):
        return weights @ value + value.mean(2, keepdim=True)


class Twofold(Attention):
    def output(self, weights, value):
        return weights @ (weights @ value)


class Mixed(Attention):
    def output(self, weights, value):
        return (0.5 * weights + 0.5 * (value @ value.mT).softmax(-1)) @ value


class HeadsFirst(Attention):
    """Rows and heads in one axis, all rows of a head before the next head."""

    def output(self, weights, value):
        flat = (weights.log().transpose(0, 1).flatten(0, 1)).softmax(-1) @ value.transpose(0, 1).flatten(0, 1)
        return flat.unflatten(0, (3, -1)).transpose(0, 1)

    def weights(self, query, key):
        scores = query @ key.mT * 5**-0.5
        return scores.exp() / scores.exp().sum(-1, keepdim=True)


class OneByOne(HeadsFirst):
    """A softmax for each head, [rows, queries, keys]."""

    def output(self, weights, value):
        return torch.stack([weights[:, head].log().softmax(-1) @ value[:, head] for head in range(3)], 1)


class Lost(Attention):
    def output(self, weights, value):
        return torch.from_numpy((weights @ value).detach().numpy())


class InOneAxis(Attention):
    """torch's fused attention of [rows * heads, queries, width]."""

    def forward(self, hidden):
        parts = self.qkv(hidden).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4).flatten(1, 2)
        output = F.scaled_dot_product_attention(*parts).unflatten(0, (-1, 3))
        return self.proj(output.transpose(1, 2).flatten(2))


class HeadByHead(Attention):
    def forward(self, hidden):
        parts = self.qkv(hidden).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4)
        each = [self.weights(*parts[:2, :, head]) @ parts[2, :, head] for head in range(3)]
        return self.proj(torch.cat(each, -1))


class WithoutSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads, self.qkv, self.proj = 3, nn.Linear(15, 45), nn.Linear(15, 15)

    def forward(self, hidden):
        query, key, value = self.qkv(hidden).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT * 5**-0.5).exp()
        output = weights @ value / weights.sum(-1, keepdim=True)
        return self.proj(output.transpose(1, 2).flatten(2))


class Around(Attention):
    """A block with a count and matrices of its own around attention that is seen."""

    def __init__(self):
        super().__init__()
        self.inner = Attention()

    def forward(self, hidden):
        return self.proj(self.inner(hidden)) * self.qkv(hidden)[..., :1].softmax(-1)


class Router(nn.Module):
    """Weights of three heads for each token, by one matrix."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.gate = 3, nn.Linear(15, 15)

    def forward(self, hidden):
        return self.gate(hidden).softmax(-1) * hidden


class Changed(Attention):
    """What meets the values is not what its softmax gives; the module keeps it."""

    def output(self, weights, value):
        self.used = self.changed(weights)
        return self.used @ value


class Causal(Changed):
    def changed(self, weights):
        weights = weights * torch.ones(weights.shape[-2:]).tril()
        return weights / weights.sum(-1, keepdim=True)


class InPlace(Changed):
    def changed(self, weights):
        return weights.mul_(torch.ones(weights.shape[-2:]).tril())  # rows do not sum to 1


class Largest(Changed):
    def changed(self, weights):
        return weights * (weights >= weights.topk(2).values[..., -1:])


class Sharpened(Changed):
    def changed(self, weights):
        return (weights.flatten(0, 1) ** 2).unflatten(0, (-1, 3))


class Negative(Changed):
    def changed(self, weights):
        return weights - 0.5


class Uncounted(Attention):
    """Says nowhere how many heads it has."""

    def __init__(self):
        super().__init__()
        del self.num_heads


class UncountedFused(Fused, Uncounted):
    pass


class Model(nn.Module):
    """Two layers around an attention module, and a number for each of three classes."""

    def __init__(self, attention):
        super().__init__()
        self.layers = nn.ModuleList([attention(), attention()])
        self.head = nn.Linear(15, 3)

    def forward(self, hidden):
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.head(hidden.mean(1))


def built(attention, tokens=7):
    torch.manual_seed(0)
    model = Model(attention).double().eval()
    return model, {"hidden": torch.randn(2, tokens, 15, dtype=torch.float64)}


def torch_attention():
    """torch.nn.MultiheadAttention, called as a module of self-attention."""
    attention = nn.MultiheadAttention(15, 3, batch_first=True)

    class Itself(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = attention

        def forward(self, hidden):
            return self.inner(hidden, hidden, hidden, need_weights=False)[0]

    return Itself()


def output_matrix(model, site):
    module = model.get_submodule(site)
    return (module.out_proj if isinstance(module, nn.MultiheadAttention) else module.proj).weight


def projected(model, batch):
    answers = model(**batch)
    return answers @ torch.arange(1, 4, dtype=torch.float64)


OWN = [Attention, Fused, Transposed, Summed, Behind, torch_attention]
LENGTHS = [7, 3]  # 3: as many tokens as heads


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("attention", OWN)
def test_a_module_of_ones_own_is_scored_and_masked(attention, tokens):
    model, batch = built(attention, tokens)
    sites = hies.find_sites(model, batch)
    assert [(s.heads, s.key_heads, s.width, s.rows, s.queries, s.keys) for s in sites.values()] == [
        (3, 3, 5, 2, tokens, tokens)
    ] * 2
    found = hies.collect(model, [batch], loss=lambda outputs, batch: outputs @ torch.arange(1.0, 4).double())
    for site in sites:
        weight = output_matrix(model, site)
        for head in range(3):
            columns, before = slice(5 * head, 5 * head + 5), weight.detach().clone()
            values = []
            with torch.no_grad():
                for gate in (1 + 1e-5, 1 - 1e-5, 0):
                    weight[:, columns] = before[:, columns] * gate
                    values.append(projected(model, batch))
                    weight.copy_(before)
                with hies.masked(model, {site: [head]}):
                    torch.testing.assert_close(projected(model, batch), values[2], rtol=1e-12, atol=1e-12)
            slope = (values[0] - values[1]) / 2e-5
            torch.testing.assert_close(found["his"][site][:, head], slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("attention", OWN)
def test_the_entropy_of_a_module_of_ones_own_is_that_of_its_softmax(attention, tokens):
    model, batch = built(attention, tokens)
    found = hies.collect(model, [batch], need=("ae", "output_norm"))
    site = next(iter(found["ae"]))
    module = model.get_submodule(site)
    weight, bias = (
        (module.in_proj_weight, module.in_proj_bias)
        if isinstance(module, nn.MultiheadAttention)
        else (module.qkv.weight, module.qkv.bias)
    )
    parts = F.linear(batch["hidden"], weight, bias).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4)
    weights = (parts[0] @ parts[1].mT * 5**-0.5).softmax(-1)
    expected = torch.special.entr(weights).sum(-1).mean(-1) / torch.tensor(tokens).double().log()
    torch.testing.assert_close(found["ae"][site], expected, rtol=1e-7, atol=1e-7)
    norms = (weights @ parts[2]).norm(dim=-1).mean(-1)
    torch.testing.assert_close(found["output_norm"][site], norms, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", [Causal, InPlace, Largest, Sharpened])
def test_entropy_is_that_of_the_weights_that_meet_the_values(kind):
    model, batch = built(kind)
    found = hies.collect(model, [batch], need=("ae",))
    model(**batch)
    for site, measured in found["ae"].items():
        used = model.get_submodule(site).used.detach()
        keys = (used > 0).sum(-1)
        relative = torch.special.entr(used / used.sum(-1, keepdim=True)).sum(-1) / keys.log()
        torch.testing.assert_close(measured, relative.where(keys > 1, torch.nan).nanmean(-1), rtol=1e-7, atol=1e-7)
    sites = hies.find_sites(model, batch)
    assert [site.calls for site in sites.values()] == [1, 1]


def test_weights_below_0_have_no_entropy():
    model, batch = built(Negative)
    assert hies.collect(model, [batch], need=("output_norm",))
    with pytest.raises(hies.UnsupportedModelError, match="Negative has attention weights below 0"):
        hies.collect(model, [batch], need=("ae",))


@pytest.mark.parametrize("kind", [Uncounted, UncountedFused])
def test_attention_that_says_no_number_of_heads_is_not_passed_over_in_silence(kind):
    model, batch = built(kind)
    with pytest.raises(hies.UnsupportedModelError, match=f"{kind.__name__} may compute attention, but the number of"):
        hies.find_sites(model, batch)
    model.layers[1] = Attention().double()
    with pytest.warns(UserWarning, match=f"{kind.__name__} may compute .* none of the attributes num_heads"):
        assert list(hies.find_sites(model, batch)) == ["layers.1"]


@pytest.mark.parametrize(
    ("attention", "why"),
    [
        (Talking, "a product of its softmax with a parameter"),
        (Bypassed, "it hands on more than the output of its heads"),
        (Twofold, "a product of several softmaxes"),
        (Mixed, "attention that mixes several softmaxes"),
        (Lost, "what becomes of the output of its heads is not seen"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_by_name(attention, why):
    model, batch = built(attention)
    before = model(**batch)
    with pytest.raises(hies.UnsupportedModelError, match=f"^Model called no attention .*{attention.__name__}: .*{why}"):
        hies.find_sites(model, batch)
    with pytest.raises(hies.HiesError, match="computes no attention"), hies.masked(model, {"layers.0": [0]}):
        assert torch.equal(model(**batch), before)


@pytest.mark.parametrize("call", ["find_sites", "collect"])
@pytest.mark.parametrize(
    ("attention", "why"),
    [
        (InOneAxis, r"its fused attention gives \(6, 7, 5\), not \[rows, 3 heads"),
        (HeadByHead, r"it computes no attention of 3 heads \(its softmax is over axis -1 of \(2, 7, 7\)\)"),
        (Bypassed, "it hands on more than the output of its heads"),
        (Talking, "it has a product of its softmax with a parameter"),
        (WithoutSoftmax, "it calls neither torch's softmax nor"),
    ],
)
def test_attention_that_is_not_seen_beside_another_is_named_once(attention, why, call):
    model, batch = built(attention)
    model.layers[1] = Attention().double()
    ways = {
        "find_sites": lambda: list(hies.find_sites(model, batch)),
        "collect": lambda: list(hies.collect(model, [batch], need=("ae",)).heads),
    }
    with pytest.warns(
        UserWarning, match=rf"^The heads of some modules .*: layers\.0 \({attention.__name__}\): {why}"
    ) as told:
        assert ways[call]() == ["layers.1"]
    assert [one.filename for one in told if "The heads of" in str(one.message)] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [way() for way in ways.values()] == [["layers.1"]] * 2
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("attention", [Around, Router])
def test_what_lies_around_attention_or_is_none_is_not_named(attention):
    model, batch = built(attention)
    model.layers[1] = Attention().double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(hies.find_sites(model, batch))[-1] == "layers.1"


def test_attention_that_did_not_run_is_not_named():
    model, batch = built(Attention)
    model.spare = HeadByHead().double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(hies.find_sites(model, batch)) == ["layers.0", "layers.1"]


def test_heads_whose_axis_was_moved_are_told_apart_at_another_length_alone():
    (model, batch), (_, other) = built(Moved, 3), built(Moved)
    with pytest.raises(hies.UnsupportedModelError, match=r"as many queries as heads \(3\).* another number of tokens"):
        hies.find_sites(model, batch)
    assert len(hies.find_sites(model, other)) == 2
    with pytest.raises(hies.UnsupportedModelError, match="as many queries"), hies.masked(model, {"layers.0": [0]}):
        model(**batch)


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_layers_of_torch_are_handled_with_their_padding(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(15, 3, 11, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    padding = torch.arange(7) >= torch.tensor([7, 4])[:, None]
    batch = {"src": torch.randn(2, 7, 15), "src_key_padding_mask": padding}
    before = model(**batch)
    sites = hies.find_sites(model, batch)
    assert list(sites) == ["layers.0.self_attn", "layers.1.self_attn"]
    with hies.masked(model, {site: [1] for site in sites}):
        found = model(**batch)
    with torch.no_grad():
        for site in sites:
            output_matrix(model, site)[:, 5:10] = 0
    torch.testing.assert_close(found[~padding], model(**batch)[~padding], rtol=1e-5, atol=1e-6)
    assert (found - before)[~padding].abs().max() > 1e-3
    assert torch.backends.mha.get_fastpath_enabled()


# --- passes of other kinds --------------------------------------------------------------------------------------------


def test_generation_with_a_cache_is_masked_at_every_token():
    model, prompt = make("gptj").eval(), torch.tensor([[5, 9, 7], [11, 13, 17]])
    removed = {site: [0, 3] for site in hies.find_sites(model, {"input_ids": prompt})}
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with hies.masked(model, removed):
        found = model.generate(prompt, **options)
        plain = model.generate(prompt, use_cache=False, **options)
    assert torch.equal(found, plain) and not torch.equal(found, model.generate(prompt, **options))


def test_dropout_draws_what_it_draws_unwatched():
    model, batch = make("deberta-v2").train(), make_batch("deberta-v2")
    torch.manual_seed(3)
    before = model(**batch).logits
    own_softmax._verdicts.clear()
    torch.manual_seed(3)
    with hies.masked(model, {}):
        assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("attention", [HeadsFirst, OneByOne])
def test_rows_are_not_taken_for_heads(attention):
    model, _ = built(attention)
    batch = {"hidden": torch.randn(6, 7, 15, dtype=torch.float64)}
    with pytest.raises(hies.UnsupportedModelError, match="do not lie side by side"):
        hies.find_sites(model, batch)


def test_a_compiled_model_is_masked_where_its_code_makes_views_of_weights():
    model, batch = make("falcon").eval(), checks.inputs_of("falcon", dtype=torch.float32)
    model.transformer.h = model.transformer.h[:1]
    with hies.masked(model, {"transformer.h.0.self_attention": [0, 2]}):
        expected = checks.run(model, batch)
        torch.testing.assert_close(checks.run(torch.compile(model, backend="eager"), batch), expected)


def test_layers_that_share_a_mask_keep_one_copy_of_it():
    model = make("mpt").eval()
    hies.find_sites(model, checks.inputs_of("mpt", dtype=torch.float32))
    kept = [tree_leaves(inputs._calls[module]) for module in model.modules() if module in inputs._calls]
    masks = [leaf for leaves in kept for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool]
    assert len(masks) == 2 and len({id(mask) for mask in masks}) == 1


def test_the_fast_path_stays_off_until_the_last_block_ends():
    models = [
        nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 7), 1, enable_nested_tensor=False) for _ in range(2)
    ]
    first, last = (hies.masked(model, {}) for model in models)
    first.__enter__()
    last.__enter__()  # of another thread, say
    first.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    last.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_a_thread_computes_elsewhere_is_not_watched():
    model, batch = make("mpnet").eval(), checks.inputs_of("mpnet", dtype=torch.float32)
    other = make("mpnet").eval()
    site = next(iter(hies.find_sites(model, batch)))
    with hies.masked(model, {site: [0]}):
        inside = other(**batch).logits
    assert torch.equal(inside, other(**batch).logits)


def test_a_site_that_adds_up_parts_has_no_output_norm():
    with pytest.raises(hies.UnsupportedModelError, match="adds up the output of a head in parts"):
        hies.collect(
            make("longformer").eval(), [checks.inputs_of("longformer", dtype=torch.float32)], need=("output_norm",)
        )


def test_padding_that_sparse_attention_hides_in_its_parts_is_refused():
    model, batch = make("big_bird_sparse").eval(), checks.inputs_of("big_bird_sparse", dtype=torch.float32)
    mask = torch.ones_like(batch["input_ids"])
    hies.collect(model, [{**batch, "attention_mask": mask}], need=("ae",))
    mask[1, 20:] = 0
    with pytest.raises(hies.UnsupportedModelError, match="give examples of one length"):
        hies.collect(model, [{**batch, "attention_mask": mask}], need=("ae",))


def test_a_model_that_replaces_its_modules_is_not_scored_half():
    model, batch = make("big_bird_sparse").eval(), checks.inputs_of("big_bird", dtype=torch.float32)
    with pytest.raises(hies.HiesError, match="replaced modules of its own"):
        hies.collect(model, [batch], need=("ae",))
    assert len(hies.collect(model, [batch], need=("ae",))["ae"]) == 2


@pytest.mark.parametrize("kind", ["Swin", "Swinv2", "DonutSwin"])
def test_keys_of_other_parts_of_a_shifted_window_do_not_count(kind):
    config = getattr(tf, f"{kind}Config")(
        image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=3
    )
    model = getattr(tf, f"{kind}ForImageClassification")(config).eval()
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("q_proj", "k_proj", "query", "key", "position_bias")):
            parameter.data.zero_()  # all keys that a query sees have the same weight
    batch = {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    for entropies in hies.collect(model, [batch], need=("ae",)).ae.values():
        torch.testing.assert_close(entropies, torch.ones_like(entropies), atol=1e-5, rtol=0)


class Filled(Attention):
    """Hides the last four keys by some number."""

    number = -torch.inf

    def weights(self, query, key):
        scores = query @ key.mT * 5**-0.5
        scores[..., -4:] = self.number
        return scores.softmax(-1)


@pytest.mark.parametrize("number", [-1e9, -1e3, -100.0])
def test_one_number_far_below_all_scores_hides_keys(number):
    model, batch = built(Filled, 11)
    expected = hies.collect(model, [batch], ("ae",)).ae
    for layer in model.layers:
        layer.number = number
    for site, found in hies.collect(model, [batch], ("ae",)).ae.items():
        torch.testing.assert_close(found, expected[site])


def test_scores_that_lie_far_apart_hide_nothing():
    scores = torch.tensor([[10.0, -90.0], [11.0, -91.0]])
    assert not hidden_in(scores).any() and not hidden_in(torch.zeros(3, 3)).any()
    assert not hidden_in(torch.tensor([[0.0, -100.0]])).any() and not hidden_in(torch.zeros(0, 3)).any()
    assert hidden_in(torch.tensor([[10.0, -90.0], [-90.0, -6000.0]])).tolist() == [[False, True], [True, True]]
