"""What `hies.prune` promises besides equal logits: composition, units, statistics of a pruned model, refusals."""

import copy
import functools
import pickle
import types
import weakref

import accelerate
import numpy as np
import peft
import pytest
import torch
import transformers as tf
from text_models import FAMILIES
from tiny_models import make, make_batch, some_heads

import hies
from hies import HiesError, UnsupportedModelError
from hies.evaluation.networks import _with_new_classifier
from hies.heads.configuration import requires_hies_attention
from hies.heads.pruned import groups_of
from hies.pruning import removal

GUARDED = ["llama_grouped", "t5", "swin"]


def logits(model, name):
    with torch.no_grad():
        return model(**make_batch(name, dtype=next(model.parameters()).dtype)).logits


def sites_of(name, model):
    return hies.find_sites(model, make_batch(name, dtype=model.dtype))


@pytest.mark.parametrize("name", ["bert", "gpt2", "gpt_neox", "llama_grouped", "modernbert", "t5", "swin", "albert"])
def test_pruning_twice_is_pruning_once(name):
    model = make(name, torch.float64).eval()
    sites = sites_of(name, model)
    first = {site: [0] for site in sites}
    second = {site: list(range(found.heads - 1))[1:2] for site, found in sites.items() if found.heads > 3}
    both = {site: [0, *(head + 1 for head in second.get(site, []))] for site in sites}
    twice = hies.prune(hies.prune(model, first), second)
    once = hies.prune(model, both)
    assert hies.pruned_heads(twice) == hies.pruned_heads(once) == both
    for (left, a), (right, b) in zip(twice.state_dict().items(), once.state_dict().items(), strict=True):
        assert left == right
        assert torch.equal(a, b)
    assert torch.equal(logits(twice, name), logits(once, name))


def test_a_copy_inside_a_mask_would_forget_it():
    model = make("bert").eval()
    (first, *_), other = sites_of("bert", model), make("bert").eval()
    with hies.masked(model, {first: [0]}):
        with pytest.raises(HiesError, match=r"hies\.prune inside a `with hies\.masked"):
            hies.prune(model, {first: [1]})
        calibration = hies.methods.Calibration([make_batch("bert")])
        with pytest.raises(HiesError, match="Slicing inside"), hies.methods.SliceGPT().pruned(model, calibration, 0.3):
            pass
        hies.prune(other, {first: [1]})  # another model is not masked
    assert model.config._attn_implementation == "sdpa"
    hies.prune(model, {first: [1]})


def closure(old):
    return lambda *args, **kwargs: old(*args, **kwargs)


def nested(old):
    def outer(*args, **kwargs):
        def inner():
            return old(*args, **kwargs)

        return inner()

    return functools.wraps(old)(outer)


class Keeper:
    """Keeps what it wraps in an attribute, for a closure that names the keeper alone."""

    def __init__(self, module):
        self.old, self.seen = module.forward, []

    def wrapper(self):
        return lambda *args, **kwargs: self.run(*args, **kwargs)

    def watcher(self):
        return lambda *args, **kwargs: self.seen.append(len(args))

    def run(self, *args, **kwargs):
        return self.old(*args, **kwargs)


def hold_global(module):
    global held
    held = module.forward
    module.forward = lambda *args, **kwargs: held(*args, **kwargs)


def hold_weakly(module):
    kept = weakref.ref(module)
    module.forward = lambda *args, **kwargs: type(module).forward(kept(), *args, **kwargs)


def hold_bound(module):
    old = module.forward
    module.forward = types.MethodType(lambda self, *args, **kwargs: old(*args, **kwargs), module)


def hook_of_original(module):
    parts = {"output": list(module.children())[-1]}
    module.register_forward_hook(lambda module, args, output: parts["output"] and None)


HOLDING = {
    "closure": lambda module: setattr(module, "forward", closure(module.forward)),
    "closure in a closure": lambda module: setattr(module, "forward", nested(module.forward)),
    "partial of a closure": lambda module: setattr(module, "forward", functools.partial(closure(module.forward))),
    "closure over a partial": lambda module: setattr(module, "forward", closure(functools.partial(module.forward))),
    "default": lambda module: setattr(module, "forward", lambda *args, old=module.forward, **kw: old(*args, **kw)),
    "attribute of an object": lambda module: setattr(module, "forward", Keeper(module).wrapper()),
    "cached": lambda module: setattr(module, "factor", functools.lru_cache(closure(module.forward))),
    "compiled": lambda module: setattr(module, "forward", torch.compile(module.forward, backend="eager")),
    "global": hold_global,
    "weak reference": hold_weakly,
    "bound closure": hold_bound,
    "hook": hook_of_original,
    "list": lambda module: setattr(module, "steps", [closure(module.forward)]),
}


def bound_to_class(module):
    @functools.wraps(module.forward)  # which leaves the original's forward where nobody calls it
    def forward(self, *args, **kwargs):
        return type(self).forward(self, *args, **kwargs)

    module.forward = types.MethodType(forward, module)


def counting_hook(module):
    seen = []
    module.register_forward_hook(lambda module, args, output: seen.append(type(output)))


STANDING = {
    "partial": lambda module: setattr(module, "forward", functools.partial(type(module).forward, module)),
    "bound method": lambda module: setattr(module, "forward", module.forward),
    "bound function": bound_to_class,
    "object": lambda module: setattr(module, "forward", Keeper(module).run),
    "accelerate": lambda module: accelerate.hooks.add_hook_to_module(module, accelerate.hooks.ModelHook()),
    "compiled module": lambda module: module.compile(backend="eager"),
    "hook": counting_hook,
    "hook of an object": lambda module: module.register_forward_hook(Keeper(module).watcher()),
    "function of another module": lambda module: setattr(module, "scorer", closure(torch.nn.Linear(2, 2).forward)),
}


def masked_llama():
    """A model, some of its heads, and what it answers without them."""
    model, removed = make("llama_grouped").eval(), {"model.layers.0.self_attn": [0, 4]}
    with hies.masked(model, removed):
        return model, removed, logits(model, "llama_grouped")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("case", HOLDING)
def test_a_copy_that_would_run_the_original_is_refused(case, whole):
    model, removed, expected = masked_llama()
    module = model if whole else model.model.layers[0].self_attn
    HOLDING[case](module)
    with pytest.raises(UnsupportedModelError, match=r"self_attn\.\w+ holds|its \w+ holds.* inplace=True"):
        hies.prune(model, removed)
    hies.prune(model, removed, inplace=True)
    torch.testing.assert_close(logits(model, "llama_grouped"), expected)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("case", STANDING)
def test_a_copy_that_computes_for_itself_is_not_refused(case, whole):
    model, removed, expected = masked_llama()
    STANDING[case](model if whole else model.model.layers[0].self_attn)
    torch.testing.assert_close(logits(hies.prune(model, removed), "llama_grouped"), expected)


def test_no_copy_of_a_softmax_of_its_own_is_tried_that_would_run_the_original():
    model = make("mpnet").eval()
    site = next(iter(sites_of("mpnet", model)))
    module = model.get_submodule(site)
    module.forward = closure(module.forward)
    with pytest.raises(UnsupportedModelError, match="forward holds a function or reference that reaches this very"):
        hies.prune(model, {site: [0]})
    calibration = hies.methods.Calibration([make_batch("bert")])
    dense = make("bert").eval()
    dense.forward = closure(dense.forward)
    with (
        pytest.raises(UnsupportedModelError, match="Slicing copies"),
        hies.methods.SliceGPT().pruned(dense, calibration, 0.3),
    ):
        pass


def test_a_model_with_adapters_is_refused_until_they_are_merged():
    model = make("bert").eval()
    site = next(iter(sites_of("bert", model)))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(UnsupportedModelError, match=r"PeftModel has adapters .* merge_and_unload"):
        hies.prune(wrapped, {f"base_model.model.{site}": [0]})
    small = hies.prune(wrapped.merge_and_unload(), {site: [0]})
    assert hies.pruned_heads(small) == {site: [0]}


@pytest.mark.parametrize("name", ["llama_grouped", "gpt2"])
@pytest.mark.parametrize("kind", ["prefix", "adaption"])
def test_keys_that_come_for_all_heads_are_refused_until_the_base_model_is_given(name, kind, tmp_path):
    model = make(name).eval()
    configs = {
        "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "adaption": peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1),
    }
    site = next(iter(sites_of(name, model)))
    tuned = peft.get_peft_model(copy.deepcopy(model), configs[kind])
    says = r"^This Peft\w+ has (prefix tuning|adaption prompts): keys and values for all heads, .* give the base model"
    for refused in (
        lambda: hies.prune(tuned, {f"base_model.{site}": [0]}),
        lambda: hies.prunable(tuned, make_batch(name)),
        lambda: hies.save_pruned(tuned, tmp_path / "small"),
    ):
        with pytest.raises(UnsupportedModelError, match=says):
            refused()
    if kind == "prefix":
        assert hies.pruned_heads(hies.prune(tuned.get_base_model(), {site: [0]})) == {site: [0]}


def test_tokens_in_front_know_of_no_heads():
    model = peft.get_peft_model(
        make("gpt2"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ).eval()
    removed = {"base_model.transformer.h.0.attn": [0, 3]}
    with hies.masked(model, removed):
        expected = logits(model, "gpt2")
    torch.testing.assert_close(logits(hies.prune(model, removed), "gpt2"), expected)


def test_the_last_heads_of_a_pruned_layer_can_go_too():
    model = make("llama_grouped", torch.float64).eval()
    site = next(iter(sites_of("llama_grouped", model)))
    small = hies.prune(hies.prune(model, {site: [0, 3, 4]}), {site: [0, 1, 2]})
    whole = hies.prune(model, {site: list(range(6))})
    assert torch.equal(logits(small, "llama_grouped"), logits(whole, "llama_grouped"))
    with pytest.raises(hies.HiesError, match="no heads left"):
        hies.prune(small, {site: [0]})


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "gpt_neox", "t5", "vit"])
def test_statistics_of_a_pruned_model_are_those_of_the_masked_one(name):
    model, batch = make(name, torch.float64).eval(), make_batch(name, dtype=torch.float64)
    removed = some_heads(hies.find_sites(model, batch), "a layer")
    small = hies.collect(hies.prune(model, removed), [batch])
    with hies.masked(model, removed):
        dense = hies.collect(model, [batch])
    for site, heads in dense.heads.items():
        left = [head for head in range(heads) if head not in removed[site]]
        if not left:
            assert site not in small.heads
            continue
        torch.testing.assert_close(small.his[site], dense.his[site][left], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(small.ae[site], dense.ae[site][left], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["bert", "llama_grouped"])
def test_a_pruned_model_can_be_masked(name):
    model = make(name, torch.float64).eval()
    site = list(sites_of(name, model))[1]
    small = hies.prune(model, {site: [1]})
    with hies.masked(small, {site: [0, 3]}):
        found = logits(small, name)
    torch.testing.assert_close(found, logits(hies.prune(model, {site: [0, 1, 4]}), name))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama_grouped", "t5"])
def test_the_given_model_is_untouched(name):
    model = make(name)
    removed = some_heads(sites_of(name, model), "a layer")
    before = copy.deepcopy(model.state_dict())
    config, hooks = model.config.to_dict(), [len(m._forward_pre_hooks) for m in model.modules()]
    implementation = model.config._attn_implementation
    small = hies.prune(model, removed)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == implementation
    assert hooks == [len(m._forward_pre_hooks) for m in model.modules()]
    assert hies.pruned_heads(model) == {}
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in small.parameters() if parameter.numel()}


@pytest.mark.parametrize("case", ["some", "a layer"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama_grouped", "t5", "mpnet"])
def test_in_place_the_model_itself_becomes_what_the_copy_is(name, case):
    model = make(name).eval()
    removed = some_heads(sites_of(name, model), case)
    small, before = hies.prune(model, removed), {*model.parameters()}
    assert hies.prune(model, removed, inplace=True) is model
    assert hies.pruned_heads(model) == hies.pruned_heads(small) and model.config.to_dict() == small.config.to_dict()
    found, expected = model.state_dict(), small.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    assert torch.equal(logits(model, name), logits(small, name))
    assert len({*model.parameters()} & before) > len(before) / 3  # what is not cut is no copy


@pytest.mark.parametrize("name", ["llama", "t5", "llava"])
def test_in_place_another_model_of_the_same_configuration_stays_as_it_is(name, tmp_path):
    model = make(name).eval()
    other = type(model)(model.config).eval()
    assert other.config is model.config
    removed = {site: [0, 3] for site in sites_of(name, model)}
    before, expected = other.config.to_dict(), hies.prune(model, removed)
    hies.prune(model, removed, inplace=True)
    assert other.config.to_dict() == before
    assert model.config.to_dict() == expected.config.to_dict()
    other.save_pretrained(tmp_path)
    again = type(other).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, name), logits(other, name))
    places = [getattr(m, "config", None) for m in model.modules()]
    assert not any(config is other.config for config in places)


def test_a_body_that_was_cut_in_place_is_saved_with_its_model(tmp_path):
    model = make("llama").eval()
    hies.prune(model.model, {f"layers.{layer}.self_attn": [0, 3] for layer in (0, 1)}, inplace=True)
    assert hies.save_pruned(model, tmp_path)
    for loaded in (hies.load_pruned(tmp_path), type(model).from_pretrained(tmp_path)):
        assert torch.equal(logits(loaded.eval(), "llama"), logits(model, "llama"))


def test_a_static_cache_that_cannot_hold_what_is_left_is_refused():
    model = make("olmo2").eval()
    first, *_ = sites_of("olmo2", model)
    small = hies.prune(model, {first: range(model.config.num_attention_heads // model.config.num_key_value_heads)})
    options = {"max_new_tokens": 3, "do_sample": False}
    tokens = torch.full((2, 7), 3)
    with pytest.raises(HiesError, match="a static cache cannot hold; generate with the usual one"):
        small.generate(tokens, cache_implementation="static", **options)
    assert small.generate(tokens, **options).shape == (2, 10)
    again = hies.prune(small, {first: [0]})
    assert len(again.get_submodule(first)._forward_pre_hooks) == 1


def test_what_is_refused_in_place_is_refused_before_anything_is_changed(monkeypatch):
    model = make("llama_grouped").eval()
    first, second = sites_of("llama_grouped", model)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(removal, "_apply", lambda *_: pytest.fail("something was changed"))
    for removed, unit in (({first: [0], second: [6]}, "head"), ({first: [0, 1, 2], second: [0]}, "kv_group")):
        with pytest.raises(HiesError):
            hies.prune(model, removed, unit, inplace=True)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_model_that_was_cut_in_part_is_neither_run_nor_saved(monkeypatch, tmp_path, error):
    model, calls, apply = make("bert").eval(), [], removal._apply

    def stop_at_the_second(*arguments):
        if calls:
            raise error("of no more memory")
        calls.append(apply(*arguments))

    removed = {site: [1] for site in sites_of("bert", model)}
    monkeypatch.setattr(removal, "_apply", stop_at_the_second)
    with pytest.raises(HiesError if error is MemoryError else error, match="no more memory"):
        hies.prune(model, removed, inplace=True)
    for use in (lambda: logits(model, "bert"), lambda: hies.save_pruned(model, tmp_path), model.state_dict):
        with pytest.raises(HiesError, match="were being cut out of this BertForSequenceClassification when it was st"):
            use()
    assert not [*tmp_path.iterdir()]


def test_a_pruned_model_trains():
    model = make("llama_grouped")
    small = hies.prune(model, some_heads(sites_of("llama_grouped", model), "a layer")).train()
    small(**make_batch("llama_grouped")).loss.backward()
    unused = "layers.1.input_layernorm"  # what only the layer without heads reads
    for name, parameter in small.named_parameters():
        if parameter.numel() and unused not in name:
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any()


@pytest.mark.parametrize("name", GUARDED)
def test_attention_that_would_give_wrong_numbers_refuses_to_run(name, monkeypatch):
    model = make(name).eval()
    sites = sites_of(name, model)
    small = hies.prune(model, {site: [0] for site in sites})
    expected = logits(small, name)
    for implementation in ("eager", "hies_eager"):
        small.set_attn_implementation(implementation)
        torch.testing.assert_close(logits(small, name), expected, rtol=1e-4, atol=1e-5)
    for module in small.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "flex_attention"
    make_mask = tf.masking_utils.create_block_mask  # which transformers has compiled, for many seconds
    monkeypatch.setattr(tf.masking_utils, "create_block_mask", lambda *a, _compile=True, **k: make_mask(*a, **k))
    with pytest.raises(hies.UnsupportedModelError, match="'sdpa' or 'eager', not 'flex_attention'"):
        logits(small, name)


def test_whole_groups_leave_plain_attention():
    model = make("llama_grouped").eval()
    small = hies.prune(model, {site: [3, 4, 5] for site in sites_of("llama_grouped", model)}, unit="kv_group")
    expected = logits(small, "llama_grouped")
    assert not requires_hies_attention(small)
    small.set_attn_implementation("eager")
    torch.testing.assert_close(logits(small, "llama_grouped"), expected, rtol=1e-4, atol=1e-5)


def test_a_split_group_is_refused_where_groups_were_asked_for():
    model = make("llama_grouped")
    site = next(iter(sites_of("llama_grouped", model)))
    with pytest.raises(hies.HiesError, match="kv_group, but of the group of head 1"):
        hies.prune(model, {site: [1, 3, 4, 5]}, unit="kv_group")
    with pytest.raises(hies.HiesError, match="unit is 'layer'"):
        hies.prune(model, {site: [1]}, unit="layer")


@pytest.mark.parametrize(
    ("removed", "says"),
    [
        ({"bert.nowhere": [0]}, "no site 'bert.nowhere'"),
        ({"bert.encoder.layer.0.attention.self": [5]}, "heads 0 to 4"),
        ({"bert.encoder.layer.0.attention.self": [-1]}, "heads 0 to 4"),
        ({"bert.encoder.layer.0": [0]}, "naming convention"),
        (None, "removed is None"),
        (0.5, r"removed is 0\.5"),
        (("a", 0), "removed is "),
    ],
)
def test_what_the_model_does_not_have_is_refused(removed, says):
    with pytest.raises(hies.HiesError, match=says):
        hies.prune(make("bert"), removed)


@pytest.mark.parametrize(
    "heads", [[False, True], torch.tensor([False, True, False]), [0.9, 2.0], "13", 3, torch.tensor(3), [[1, 2]], None]
)
def test_what_is_no_index_is_refused(heads):
    model, site = make("bert"), "bert.encoder.layer.0.attention.self"
    with pytest.raises(hies.HiesError, match="indices of the heads"):
        hies.prune(model, {site: heads})
    with pytest.raises(hies.HiesError, match="indices of the heads"), hies.masked(model, {site: heads}):
        pass


@pytest.mark.parametrize("heads", [{1, 3}, (3, 1), np.array([1, 3]), torch.tensor([3, 1]), [np.int64(1), 3, 3]])
def test_any_collection_of_indices_will_do(heads):
    small = hies.prune(make("bert"), {"bert.encoder.layer.0.attention.self": heads})
    assert hies.pruned_heads(small) == {"bert.encoder.layer.0.attention.self": [1, 3]}


def test_a_projection_of_two_layers_is_refused():
    model = make("llama")
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_proj = first.q_proj
    with pytest.raises(hies.UnsupportedModelError, match="q_proj is shared"):
        hies.prune(model, {"model.layers.0.self_attn": [0]})


def test_sites_that_share_a_projection_stay_and_the_others_go():
    model, batch = make("t5").eval(), make_batch("t5")
    first, second = (model.encoder.block[i].layer[0].SelfAttention for i in range(2))
    second.o.weight = first.o.weight
    found = hies.prunable(model, batch)
    shared = [f"encoder.block.{i}.layer.0.SelfAttention" for i in range(2)]
    assert found.refused == dict.fromkeys(shared, "its o is shared with another module, which would lose its heads too")
    assert len(found) == 4 and not set(found) & set(shared)
    removed = hies.select({site: torch.arange(5.0) for site in [*shared, *found]}, 0.4, "layer", sites=found)
    with hies.masked(model, removed), torch.no_grad():
        expected = model(**batch).logits
    torch.testing.assert_close(logits(hies.prune(model, removed), "t5"), expected)


def test_sites_of_a_pruned_model_are_those_that_have_heads_left():
    model, batch = make("bert").eval(), make_batch("bert")
    every = hies.prunable(model, batch)
    first, second = every
    found = hies.prunable(hies.prune(model, {first: range(5), second: [1]}), batch)
    assert (list(found), found[second].heads, found.refused) == ([second], 4, {})
    with hies.masked(model, {first: [0]}):  # it copies nothing
        assert hies.prunable(model, batch) == every


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda pooler: pooler.to("meta"), "hies.prunable needs all weights .* meta device"),
        (lambda pooler: setattr(pooler, "base_layer", pooler.dense), "adapters"),
    ],
)
def test_what_keeps_the_whole_model_from_being_cut_is_an_error(change, says):
    model = make("bert")
    change(model.bert.pooler)
    with pytest.raises(UnsupportedModelError, match=says):
        hies.prunable(model, make_batch("bert"))


def test_a_pruned_site_tells_its_key_heads():
    model = make("llama_grouped")
    site = next(iter(sites_of("llama_grouped", model)))
    found = sites_of("llama_grouped", hies.prune(model, {site: [0]}))[site]
    assert (found.heads, found.key_heads) == (5, 2)


def test_whole_groups_under_a_norm_over_all_heads():
    model = FAMILIES["olmo2"].build().eval()
    words = torch.arange(3, 14)[None]
    sites = hies.find_sites(model, {"input_ids": words})
    removed = {name: list(range(site.heads // site.key_heads)) for name, site in sites.items()}
    with torch.no_grad():
        found = hies.prune(model, removed)(input_ids=words).logits
        with hies.masked(model, removed):
            torch.testing.assert_close(found, model(input_ids=words).logits, rtol=0, atol=1e-5)


def test_nothing_removed_is_a_copy():
    model = make("bert").eval()
    small = hies.prune(model, {"bert.encoder.layer.0.attention.self": []})
    assert small is not model
    assert hies.pruned_heads(small) == {}
    assert torch.equal(logits(small, "bert"), logits(model, "bert"))


@pytest.mark.parametrize(
    ("heads", "key_heads", "expected"),
    [
        ((0, 1, 2, 3), (0, 1), None),
        ((2, 3), (1,), None),
        ((0, 2), (0, 1), None),
        ((0, 1, 2), (0, 1), (0, 0, 1)),
        ((1, 2, 3), (0, 1), (0, 1, 1)),
        ((), (), None),
    ],
)
def test_groups_are_written_down_where_their_sizes_differ(heads, key_heads, expected):
    assert groups_of(heads, key_heads, {0: 0, 1: 0, 2: 1, 3: 1}) == expected


@pytest.mark.parametrize("way", ["body", "body pruned again", "copied", "other classifier"])
def test_the_dense_counts_go_with_the_body_of_a_model(tmp_path, way):
    kind, config = tf.LlamaForSequenceClassification, make("llama_grouped").config
    model = kind(config).eval()
    sites = [f"model.layers.{layer}.self_attn" for layer in range(config.num_hidden_layers)]
    small = hies.prune(model, {site: [0, 1, 2] for site in sites})
    body, words = small.base_model, {"input_ids": make_batch("llama_grouped")["input_ids"]}
    if way == "body pruned again":
        body = hies.prune(body, {sites[0].removeprefix("model."): [0]})
    elif way == "copied":
        body = pickle.loads(pickle.dumps(copy.deepcopy(body)))
    elif way == "other classifier":
        hies.save_pruned(small, tmp_path / "first")
        options = {"num_labels": 7}
        body = _with_new_classifier(tf.AutoModelForSequenceClassification, str(tmp_path / "first"), options).eval()
    assert "hies" not in body.config.to_json_string()
    assert hies.save_pruned(body, tmp_path) == (way != "body pruned again")
    again = hies.load_pruned(tmp_path)
    assert hies.pruned_heads(again) == hies.pruned_heads(body)
    assert again.config.num_attention_heads == (6 if way == "body pruned again" else 3)
    with torch.no_grad():
        assert torch.equal(again(**words)[0], body(**words)[0])
        if way != "body pruned again":
            assert torch.equal(type(body).from_pretrained(tmp_path)(**words)[0], body(**words)[0])
