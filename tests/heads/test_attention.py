"""Finding, masking and observing heads: right in every architecture, and nothing is left behind."""

import contextlib
import copy

import pytest
import torch
from architectures import ARCHITECTURES, TEXT
from tiny_models import assert_same_state, has_config, make, make_batch, output_projection, state_of
from transformers import AttentionInterface, AttentionMaskInterface, FNetConfig, FNetForSequenceClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hies import HiesError, UnsupportedModelError, collect, find_sites, masked
from hies.heads.calls import describe, visible_in


@torch.no_grad()
def logits_of(model, batch):
    return model(**batch).logits


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_head_is_found(name):
    model, batch = make(name), make_batch(name)
    sites = find_sites(model, batch)
    assert tuple(site.heads for site in sites.values()) == ARCHITECTURES[name].heads
    for key, site in sites.items():
        projection = output_projection(model, name, key)
        assert site.name == key
        assert site.heads * site.width == getattr(projection, "in_features", projection.weight.shape[0])


def test_a_site_says_what_it_computed():
    site = find_sites(make("llama_grouped"), make_batch("llama_grouped"))["model.layers.0.self_attn"]
    assert (site.heads, site.key_heads, site.width, site.rows, site.queries, site.keys) == (6, 2, 8, 3, 11, 11)
    site = find_sites(make("t5"), make_batch("t5"))["decoder.block.1.layer.1.EncDecAttention"]
    assert (site.heads, site.key_heads, site.width, site.rows, site.queries, site.keys) == (5, 5, 7, 3, 7, 11)
    site = find_sites(make("swin"), make_batch("swin"))["swin.encoder.layers.0.blocks.1.attention"]
    assert (site.heads, site.rows, site.queries, site.keys) == (2, 3 * 16, 9, 9)  # 16 windows of 9 patches


def test_sites_come_in_the_order_of_use():
    sites = list(find_sites(make("bart"), make_batch("bart")))
    assert [name.removeprefix("model.") for name in sites] == [
        "encoder.layers.0.self_attn",
        "encoder.layers.1.self_attn",
        "decoder.layers.0.self_attn",
        "decoder.layers.0.encoder_attn",
        "decoder.layers.1.self_attn",
        "decoder.layers.1.encoder_attn",
    ]


@pytest.mark.parametrize("use", [find_sites, lambda model, batch: collect(model, [batch])])
def test_a_model_without_heads_is_refused_by_name(use):
    model = FNetForSequenceClassification(FNetConfig(**TEXT, hidden_size=35))
    with pytest.raises(UnsupportedModelError, match="FNetForSequenceClassification"):
        use(model, make_batch("bert"))
    with pytest.raises(HiesError, match="computes no attention"), masked(model, {"fnet.encoder.layer.0": [0]}):
        model(**make_batch("bert"))


# --- masking ----------------------------------------------------------------------------------------------------------


def with_zeroed_columns(model, name, removed, sites):
    """A copy whose output projections ignore the removed heads."""
    changed = copy.deepcopy(model)
    for site, heads in removed.items():
        projection, width = output_projection(changed, name, site), sites[site].width
        columns = projection.weight.data if name == "gpt2" else projection.weight.data.T  # GPT-2 keeps them as rows
        for head in heads:
            columns[head * width : (head + 1) * width] = 0
    return changed


def first_and_last(sites):
    return {name: [0, site.heads - 1] for name, site in list(sites.items())[1:]}


def a_whole_layer(sites):
    name = list(sites)[-1]
    return {name: list(range(sites[name].heads))}


def everything(sites):
    return {name: list(range(site.heads)) for name, site in sites.items()}


@pytest.mark.parametrize("choose", [first_and_last, a_whole_layer, everything])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama_grouped", "t5", "bart", "vit", "swin", "gemma2"])
def test_masking_is_zeroing_the_columns_of_the_output_projection(name, choose):
    model, batch = make(name).eval(), make_batch(name)
    sites = find_sites(model, batch)
    removed = choose(sites)
    expected = logits_of(with_zeroed_columns(model, name, removed, sites), batch)
    whole = logits_of(model, batch)
    with masked(model, removed):
        found = logits_of(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - whole).abs().max() > 1e-3
    torch.testing.assert_close(logits_of(model, batch), whole, atol=0, rtol=0)


def test_masks_nest_and_add_up():
    model, batch = make("bert").eval(), make_batch("bert")
    first, second = find_sites(model, batch)
    with masked(model, {first: [1], second: [0, 4]}):
        together = logits_of(model, batch)
    with masked(model, {first: [1], second: [4]}), masked(model, {second: [0]}):
        torch.testing.assert_close(logits_of(model, batch), together)


def test_a_masked_head_has_no_importance():
    model, batch = make("bert"), make_batch("bert")
    first, second = find_sites(model, batch)
    with masked(model, {first: [2], second: [0, 3]}):
        statistics = collect(model, [batch])
    for site, heads in ((first, [2]), (second, [0, 3])):
        assert (statistics.his[site] == 0).nonzero().flatten().tolist() == heads


def test_no_heads_is_no_mask():
    model, batch = make("bert").eval(), make_batch("bert")
    for nothing in ({}, {"bert.encoder.layer.0.attention.self": []}):
        with masked(model, nothing):
            torch.testing.assert_close(logits_of(model, batch), logits_of(model, batch))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"bert.encoder.layer.9": [0]}, "no site 'bert.encoder.layer.9'"),
        ({"bert.encoder.layer.0.attention.self": [5]}, "heads 0 to 4"),
        ({"bert.encoder.layer.0.attention.self": [-1]}, "heads 0 to 4"),
        ({"bert.encoder.layer.0.output": [0]}, "'bert.encoder.layer.0.output' computes no attention"),
        (None, "removed is None; give {site: "),
        (0.5, r"removed is 0\.5; give {site: "),
        ({"bert.encoder.layer.0.attention.self": 0.5}, r"removed\['bert.encoder.layer.0.attention.self'\] is 0.5"),
        ({"bert.encoder.layer.0.attention.self": None}, r"removed\['bert.encoder.layer.0.attention.self'\] is None"),
        ({None: [0], "x": [0]}, "no site None"),
    ],
)
def test_mistakes_are_named_in_one_sentence(removed, message):
    model, batch = make("bert").eval(), make_batch("bert")
    before = state_of(model)
    with pytest.raises(HiesError, match=message) as error, masked(model, removed):
        logits_of(model, batch)
    assert "\n" not in str(error.value)
    assert_same_state(model, before)


# --- nothing is left behind -------------------------------------------------------------------------------------------


def mask_of(model, batch):
    return {name: [0] for name in find_sites(model, batch)}


def use_find_sites(model, batch):
    find_sites(model, batch)


def use_masked(model, batch):
    with masked(model, mask_of(model, batch)):
        logits_of(model, batch)


def use_nothing_masked(model, batch):
    with masked(model, {}):
        logits_of(model, batch)


def use_collect(model, batch):
    collect(model, [batch])


def use_nested(model, batch):
    with masked(model, mask_of(model, batch)):
        collect(model, [batch])
        logits_of(model, batch)


def use_with_an_error_inside(model, batch):
    with pytest.raises(ZeroDivisionError), masked(model, mask_of(model, batch)):
        logits_of(model, batch)
        _ = 1 / 0


def use_with_an_error_in_the_loss(model, batch):
    with pytest.raises(ZeroDivisionError), masked(model, mask_of(model, batch)):
        collect(model, [batch], loss=lambda outputs, batch: 1 / 0)


def use_with_an_error_in_the_batches(model, batch):
    def batches():
        yield batch
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect(model, batches())


USES = [
    use_find_sites,
    use_masked,
    use_collect,
    use_nested,
    use_with_an_error_inside,
    use_with_an_error_in_the_loss,
    use_with_an_error_in_the_batches,
]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        ("bert", "sdpa"),
        ("bert", "eager"),
        ("llama_grouped", "eager"),
        ("t5", "sdpa"),
        ("llava", "sdpa"),
        ("llava", "mixed"),
    ],
)
def test_the_model_is_as_it_was(name, implementation, use):
    model, batch = make(name), make_batch(name)
    model.set_attn_implementation({"text_config": "eager"} if implementation == "mixed" else implementation)
    list(model.parameters())[1].requires_grad_(False)
    list(model.modules())[5].eval()  # one module of a model in training
    logits_of(model, batch)  # transformers hangs hooks of its own into some models on their first call
    before = state_of(model)
    implementations = set(before["attention"].values())
    assert implementations == ({"sdpa", "eager"} if implementation == "mixed" else {implementation})
    use(model, batch)
    assert_same_state(model, before)


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "t5", "llava"])
def test_eager_and_sdpa_models_give_the_same_statistics(name):
    model, batch = make(name), make_batch(name)
    found = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        found[implementation] = collect(model, [batch])
    for site in found["sdpa"].heads:
        for kind in ("his", "ae"):
            one, two = (found[implementation][kind][site] for implementation in found)
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama_grouped", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention", "paged|eager"])
def test_what_transformers_ships_for_speed_is_computed_as_the_model_does(name, implementation):
    model, batch = make(name).eval(), make_batch(name)
    model.set_attn_implementation("eager")
    expected = logits_of(model, batch)
    for module in model.modules():
        if has_config(module):
            module.config._attn_implementation_internal = implementation
    with masked(model, {}):
        torch.testing.assert_close(logits_of(model, batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "known"), [("llama_grouped", '"sdpa" or "eager"'), ("gemma2", 'with "eager"')])
@pytest.mark.parametrize("use", [use_find_sites, use_nothing_masked, use_collect])
def test_an_implementation_of_somebody_elses_is_refused_by_its_name(name, known, use, monkeypatch):
    def hot(*args, scaling, softcap=None, **kwargs):
        return sdpa_attention_forward(*args, scaling=3 * scaling, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "hot", hot)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "hot", sdpa_mask)
    model, batch = make(name).eval(), make_batch(name)
    model.set_attn_implementation("hot")
    before = state_of(model)
    with pytest.raises(UnsupportedModelError, match=f"'hot' of .*set_attn_implementation .*{known}") as error:
        use(model, batch)
    assert "\n" not in str(error.value)
    assert_same_state(model, before)
    model.set_attn_implementation("eager")
    use_masked(model, batch)


def test_dropout_is_off_while_statistics_are_collected_and_on_again_after():
    model, batch = make("bert").train(), make_batch("bert")
    one, two = collect(model, [batch]), collect(model, [batch])
    for site in one.heads:
        assert torch.equal(one.his[site], two.his[site])
    assert model.training


def test_statistics_can_be_collected_inside_no_grad():
    model, batch = make("bert"), make_batch("bert")
    outside = collect(model, [batch])
    with torch.no_grad():
        inside = collect(model, [batch])
        assert not torch.is_grad_enabled()
    for site in outside.heads:
        assert torch.equal(outside.his[site], inside.his[site])


def test_two_models_do_not_see_each_other():
    one, two, batch = make("bert").eval(), make("bert", seed=5).eval(), make_batch("bert")
    expected = logits_of(two, batch)
    with contextlib.ExitStack() as stack:
        stack.enter_context(masked(one, mask_of(one, batch)))
        stack.enter_context(masked(two, {}))
        torch.testing.assert_close(logits_of(two, batch), expected)


@pytest.mark.parametrize(("is_eager", "causal"), [(True, False), (False, True)])
def test_without_a_mask_only_the_fused_function_is_causal_by_itself(is_eager, causal):
    query, key = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 5, 7)
    assert describe(torch.nn.Module(), query, key, None, {}, is_eager).causal is causal


@pytest.mark.parametrize("slope", [2**-8, 0.5, 1])
@pytest.mark.parametrize("padding", [0, 200])
def test_a_bias_that_grows_with_the_distance_hides_no_key(slope, padding):
    place = torch.arange(300)
    bias = -slope * (place[:, None] - place).abs().float()  # [queries, keys]
    hidden = (place > place[:, None]) | (place < padding)
    assert torch.equal(visible_in(bias.masked_fill(hidden, torch.finfo(bias.dtype).min)), ~hidden)
    assert visible_in(bias).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("low", [-100, -200, -1000, -torch.inf])
def test_a_key_far_below_all_others_of_its_row_is_hidden(generator, dtype, low):
    visible = torch.rand(3, 2, 16, 16, generator=generator) < 0.5
    visible[..., 0] = True
    visible[1] = True
    bias = 8 * torch.randn(3, 2, 16, 16, generator=generator).clamp(-2, 2).to(dtype)
    assert torch.equal(visible_in(bias.where(visible, bias + low)), visible)
    shown = visible_in(torch.full((2, 5), low, dtype=dtype))  # none of them lies below the others
    assert torch.equal(shown, torch.full((2, 5), low > -torch.inf))
