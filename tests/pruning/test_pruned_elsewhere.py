"""A pruned model where other code reads it: compilers, exporters, adapters, paged caches, masks made for all heads."""

import inspect
import subprocess
import sys
from itertools import product
from pathlib import Path

import accelerate
import checks
import peft
import pytest
import torch
import transformers as tf
from architectures import ENCODER, IMAGE, WORDS
from tiny_models import make, make_batch, some_heads

import hies
from hies.efficiency.measure import measure
from hies.heads.configuration import SiteConfig
from hies.heads.pruned import PrunedHeads
from hies.methods import Calibration
from hies.pruning.counts import set_counts
from hies.pruning.removal import cut

ROOT = Path(__file__).parents[2]
MULTI_HEAD = {"hidden_size": 40, "num_layers": 1, "num_attention_heads": 5, "intermediate_size": 13}


def beyond(*values):
    """The arguments of a test that takes seconds and that an ordinary run leaves out."""
    return pytest.param(*values, marks=pytest.mark.beyond_sample)


def pruned(name, case="some", dtype=torch.float32):
    model, batch = make(name, dtype).eval(), checks.inputs_of(name, dtype=dtype)
    if "use_cache" in inspect.signature(model.forward).parameters:
        batch["use_cache"] = False
    return model, hies.prune(model, some_heads(hies.find_sites(model, batch), case)), batch


# --- other processes --------------------------------------------------------------------------------------------------

UNPICKLE = """
import sys
import torch
cases = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    torch.save([model(**batch).to_tuple()[0] for model, batch in cases], sys.argv[2])
"""


def test_a_pickled_model_runs_in_a_process_that_has_not_imported_the_library(tmp_path):
    cases = [
        pruned(name, case)[1:] for name in ("llama_grouped", "bert", "t5", "mpnet") for case in ("some", "a layer")
    ]
    torch.save(cases, tmp_path / "models.pt")
    words = [sys.executable, "-c", UNPICKLE, str(tmp_path / "models.pt"), str(tmp_path / "answers.pt")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        for (model, batch), found in zip(cases, torch.load(tmp_path / "answers.pt"), strict=True):
            assert torch.equal(found, model(**batch).to_tuple()[0])


# --- compilers and exporters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("llama_grouped", "some"),
        *(beyond("t5", "a layer"), beyond("olmo2", "some"), beyond("swin", "some"), beyond("gpt2", "a layer")),
    ],
)
def test_a_pruned_model_is_one_graph(name, case):
    _, small, batch = pruned(name, case)
    expected = checks.run(small, batch)
    torch._dynamo.reset()
    whole = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(checks.run(whole, batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["phi3", beyond("llama_grouped")])
def test_a_pruned_model_on_eager_attention_is_one_graph(name):
    _, small, batch = pruned(name, "a layer")
    expected = checks.run(small, batch)
    small.set_attn_implementation("eager")
    torch._dynamo.reset()
    whole = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(checks.run(whole, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "strict"), [("bert", False), *(beyond("bert", True), beyond("t5", False), beyond("llama_grouped", True))]
)
def test_a_pruned_model_is_exported(name, strict):
    _, small, batch = pruned(name, "a layer")
    torch._dynamo.reset()
    with torch.no_grad():
        exported = torch.export.export(small, (), batch, strict=strict)
        found = checks.answers(exported.module()(**batch), batch)
    torch.testing.assert_close(found, checks.run(small, batch), rtol=1e-5, atol=1e-5)


def test_sites_name_their_attention_by_a_plain_string():
    _, small, _ = pruned("llama_grouped")
    for implementation in ("sdpa", "eager"):
        small.set_attn_implementation(implementation)
        names = [m.config._attn_implementation for m in small.modules() if PrunedHeads.of(m)]
        assert [type(name) for name in names] == [str, str] and set(names) == {f"hies_{implementation}"}
        assert small.config._attn_implementation == implementation


def test_a_forward_that_asks_for_its_implementation_by_name_finds_it():
    _, small, _ = pruned("deepseek_v32", "a layer")
    configs = [module.config for module in small.modules() if PrunedHeads.of(module)]
    assert [isinstance(config, SiteConfig) for config in configs] == [True, True]
    assert {config._attn_implementation for config in configs} == {small.config._attn_implementation}


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("llama", "all-linear"),
        ("bert", ["query", "value", "dense"]),
        ("gpt2", ["c_attn", "c_proj"]),
        ("t5", ["q", "v", "o"]),
    ],
)
def test_adapters_train_and_merge_around_a_layer_without_heads(name, targets):
    _, small, _ = pruned(name, "a layer")
    batch, names = make_batch(name), {name for name, _ in small.named_parameters()}
    before = small(**batch).logits.detach()
    adapted = peft.get_peft_model(small, peft.LoraConfig(r=2, target_modules=targets, fan_in_fan_out=name == "gpt2"))
    torch.testing.assert_close(adapted(**batch).logits, before, rtol=1e-5, atol=1e-5)
    adapted(**batch).loss.backward()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None  # every adapter is one that the model uses
                parameter -= 0.1 * torch.sign(parameter.grad) + 0.1
    trained = adapted(**batch).logits.detach()
    assert (trained - before).abs().max() > 1e-2
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, trained, rtol=1e-4, atol=1e-4)
    assert {name for name, _ in merged.named_parameters()} == names


# --- the configuration in memory --------------------------------------------------------------------------------------


def test_the_configuration_in_memory_is_the_one_that_is_saved(tmp_path):
    model = make("llama_grouped").eval()
    sites = hies.find_sites(model, make_batch("llama_grouped"))
    state = torch.random.get_rng_state()
    small = hies.prune(model, {site: [3, 4, 5] for site in sites})
    assert torch.equal(torch.random.get_rng_state(), state)
    hies.save_pruned(small, tmp_path)
    plain, loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path), hies.load_pruned(tmp_path)
    for one in (small, plain, loaded):
        counts = one.config.num_attention_heads, one.config.num_key_value_heads, one.config.head_dim
        assert counts == (3, 1, 8)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (6, 2)
    uneven = hies.prune(loaded, {next(iter(sites)): [0]})  # which no configuration can say
    assert (uneven.config.num_attention_heads, uneven.config.num_key_value_heads) == (6, 2)
    assert loaded.config.num_attention_heads == 3
    hies.save_pruned(uneven, tmp_path)
    again = hies.load_pruned(tmp_path)
    assert hies.pruned_heads(again) == hies.pruned_heads(uneven) and again.config.num_attention_heads == 6


def test_heads_cut_out_of_the_model_itself_are_in_its_configuration():
    model = make("llama_grouped").eval()
    cut(model, {site: [0, 1, 2] for site in hies.find_sites(model, make_batch("llama_grouped"))})
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (3, 1)


@pytest.mark.parametrize("setting", ["__class__.head_dim", "nowhere.head_dim", "head_dim.head_dim"])
def test_counts_are_written_into_configurations_alone(setting):
    with pytest.raises(hies.HiesError, match="has no configuration"):
        set_counts(make("llama_grouped").config, {setting: 3})


class OfAnotherSize(tf.LlamaForCausalLM):
    def __init__(self, config, words):
        super().__init__(config)
        self.words = words


def test_a_class_that_is_built_in_another_way_keeps_the_dense_configuration():
    config = make("llama_grouped").config
    model = OfAnotherSize(config, words=7).eval()
    small = hies.prune(model, {site: [0, 1, 2] for site in hies.find_sites(model, make_batch("llama_grouped"))})
    assert small.config.num_attention_heads == 6


def test_an_initialisation_that_names_the_projections_finds_them_in_a_layer_without_heads(tmp_path):
    checks.check_partly("siglip", tmp_path)


def test_a_configuration_inside_another_says_the_heads_too(tmp_path):
    vision = tf.CLIPVisionConfig(**IMAGE, intermediate_size=13)
    text = tf.MistralConfig(
        vocab_size=WORDS, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=13, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    config = tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=WORDS - 1)
    model, batch = tf.LlavaForConditionalGeneration(config).eval(), make_batch("llava")
    sites = [site for site in hies.find_sites(model, batch) if "language" in site]
    small = hies.prune(model, {site: [0, 1, 2] for site in sites})
    assert (small.config.text_config.num_attention_heads, small.config.text_config.num_key_value_heads) == (3, 1)
    assert model.config.text_config.num_attention_heads == 6 and small.config.vision_config.num_attention_heads == 5
    hies.save_pruned(small, tmp_path)
    with torch.no_grad():
        expected = small(**batch).logits
        for loaded in (tf.LlavaForConditionalGeneration.from_pretrained(tmp_path), hies.load_pruned(tmp_path)):
            torch.testing.assert_close(loaded(**batch).logits, expected, rtol=1e-5, atol=1e-5)
            assert loaded.config.text_config.num_key_value_heads == 1


@pytest.mark.parametrize("gone", [[0, 1, 2], beyond([1, 4])])
def test_continuous_batching_writes_what_generate_writes(gone):
    model = make("llama_grouped").eval()
    small = hies.prune(model, dict.fromkeys(hies.find_sites(model, make_batch("llama_grouped")), gone))
    words, greedy = [5, 6, 7], tf.GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)
    small_cache = tf.ContinuousBatchingConfig(num_blocks=2, page_size=16, max_batch_tokens=16, use_cuda_graph=False)
    found = small.generate_batch([words], generation_config=greedy, continuous_batching_config=small_cache)
    expected = small.generate(torch.tensor([words]), generation_config=greedy)[0, len(words) :].tolist()
    assert [output.generated_tokens for output in found.values()] == [expected]


@pytest.mark.parametrize("gone", [{0: [1]}, {0: [0, 1, 2]}, {1: range(6)}])
def test_continuous_batching_is_refused_where_the_configuration_cannot_say_the_heads(gone, tmp_path):
    model = make("llama_grouped").eval()
    sites = list(hies.find_sites(model, make_batch("llama_grouped")))
    small = hies.prune(model, {sites[i]: list(heads) for i, heads in gone.items()})
    hies.save_pruned(small, tmp_path)
    for one in (small, hies.load_pruned(tmp_path)):
        with pytest.raises(hies.HiesError, match=r"use model\.generate, or remove"):
            one.generate_batch([[5, 6, 7]])


# --- masks for all dense heads, made outside of attention -------------------------------------------------------------


def sam3():
    vision = {
        **IMAGE, "model_type": "sam3_vit_model", "hidden_size": 40, "intermediate_size": 13, "image_size": 56,
        "patch_size": 14, "window_size": 2, "global_attn_indexes": [1], "pretrain_image_size": 28,
    }  # fmt: skip
    scales = {"fpn_hidden_size": 40, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    config = tf.Sam3Config(
        vision_config={"backbone_config": vision, **scales},
        text_config={**ENCODER, "model_type": "clip_text_model", "projection_dim": 35},
        geometry_encoder_config=MULTI_HEAD, detr_encoder_config=MULTI_HEAD, mask_decoder_config=MULTI_HEAD,
        detr_decoder_config={**MULTI_HEAD, "num_queries": 7},
    )  # fmt: skip
    torch.manual_seed(3)
    text = make_batch("bert")
    inputs = {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"]}
    return tf.Sam3Model(config).double().eval(), {**inputs, "pixel_values": torch.randn(3, 3, 56, 56).double()}


def llama_with_a_mask_by_head():
    """Another pattern of visible keys for every head, as a caller may give it."""
    model, words = make("llama_grouped", torch.float64).eval(), make_batch("llama_grouped")["input_ids"]
    seen = torch.rand(3, 6, 11, 11, generator=torch.Generator().manual_seed(2)) < 0.5
    seen = (seen & torch.ones(11, 11).tril().bool()) | torch.eye(11).bool()
    return model, {"input_ids": words, "attention_mask": torch.zeros(seen.shape).double().masked_fill(~seen, -1e9)}


@pytest.mark.parametrize("build", [sam3, llama_with_a_mask_by_head])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_mask_for_all_dense_heads_is_for_those_that_are_left(build, implementation):
    model, batch = build()
    model.set_attn_implementation(implementation)
    sites = hies.find_sites(model, batch)
    for removed in (*({site: heads for site in sites} for heads in ([0, 3], [0, 1, 2])), some_heads(sites, "a layer")):
        small = hies.prune(model, removed)
        with hies.masked(model, removed):
            expected = checks.run(model, batch)
        torch.testing.assert_close(checks.run(small, batch), expected, rtol=1e-9, atol=1e-9)


# --- weights that are not here, quantised, or of several layers -------------------------------------------------------


def offloaded(name="llama"):
    return accelerate.cpu_offload(make(name).eval(), execution_device=torch.device("cpu"))


def test_an_offloaded_model_is_scored_and_masked_as_any_other():
    model, batch = make("llama").eval(), make_batch("llama")
    removed = some_heads(hies.find_sites(model, batch), "a layer")
    found, expected = hies.collect(offloaded(), [batch]), hies.collect(model, [batch])
    for site, values in expected.his.items():
        assert torch.equal(found.his[site], values) and torch.equal(found.ae[site], expected.ae[site])
    with hies.masked(offload := offloaded(), removed):
        found = checks.run(offload, batch)
    with hies.masked(model, removed):
        assert torch.equal(found, checks.run(model, batch))


KINDS = ["l2", "save", "measure", "block", "channel", "slice"]


@pytest.mark.parametrize(("kind", "hooked"), [("prune", True), *product(KINDS, (True, False))])
def test_weights_that_are_not_in_memory_are_refused(kind, hooked, tmp_path):
    batch = make_batch("llama")
    dense, removed = make("llama").eval(), {site: [0] for site in hies.find_sites(make("llama"), batch)}
    small = hies.prune(dense, removed)
    away = (lambda one: accelerate.cpu_offload(one, torch.device("cpu"))) if hooked else (lambda one: one.to("meta"))
    calibration = Calibration([batch])
    with pytest.raises(hies.UnsupportedModelError, match=r"'model\.embed_tokens\.weight' .* meta device"):
        if kind == "prune":
            hies.prune(away(dense), removed)
        elif kind == "l2":
            hies.collect(away(dense), [batch], need=("l2",))
        elif kind == "save":
            hies.save_pruned(away(small), tmp_path / "new")
        elif kind == "measure":
            measure(dense, away(small), checks.inputs_of("llama"), rounds=1)
        else:
            methods = {"block": "LLMPrunerBlock", "channel": "LLMPrunerChannel", "slice": "SliceGPT"}
            with getattr(hies.methods, methods[kind])().pruned(away(dense), calibration, 0.3):
                pass
    assert not (tmp_path / "new").exists()


def test_a_model_of_shapes_alone_is_not_masked_or_scored():
    model, batch = make("llama").to("meta"), make_batch("llama")
    with pytest.raises(hies.UnsupportedModelError, match=r"hies\.collect .* meta device"):
        hies.collect(model, [batch])
    with pytest.raises(hies.UnsupportedModelError, match=r"hies\.find_sites .* meta device"):
        hies.find_sites(model, batch)
    with pytest.raises(hies.UnsupportedModelError, match=r"hies\.masked .* meta device"), hies.masked(model, {}):
        pass


class Packed(torch.nn.Module):
    """A linear layer as GPTQ and its like pack it."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("qweight", (linear.weight.detach() * 9).to(torch.int8))
        self.bias = linear.bias

    def forward(self, hidden):
        return torch.nn.functional.linear(hidden, self.qweight.to(hidden.dtype) / 9, self.bias)


def quantised(how, name="bert"):
    model = make(name).eval()
    if how == "torchao":
        torchao = pytest.importorskip("torchao.quantization")
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    elif how == "dynamic":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    else:
        for module in list(model.modules()):
            for child, linear in module.named_children():
                if type(linear) is torch.nn.Linear:
                    if how == "packed":
                        setattr(module, child, Packed(linear))
                    else:  # as bitsandbytes and torch store them
                        dtype = torch.float8_e4m3fn if how == "float8" else torch.int8
                        linear.weight = torch.nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
    return model


@pytest.mark.parametrize("how", ["torchao", "dynamic", "packed", "float8", "int8"])
def test_quantised_weights_are_refused_by_that_word(how, tmp_path):
    model, batch = quantised(how), make_batch("bert")
    removed = {"bert.encoder.layer.0.attention.self": [1]}
    with pytest.raises(hies.UnsupportedModelError, match="query is quantised"):
        hies.prune(model, removed)
    small = hies.prune(make("bert"), removed)
    small.bert.encoder.layer[0].intermediate.dense = model.bert.encoder.layer[0].intermediate.dense
    with pytest.raises(hies.UnsupportedModelError, match=r"intermediate\.dense' is quantised"):
        hies.save_pruned(small, tmp_path / "new")
    if how not in ("float8", "int8"):  # which run
        with pytest.raises(hies.UnsupportedModelError, match="query is quantised"):
            hies.collect(model, [batch], need=("l2",))
        with pytest.raises(hies.UnsupportedModelError, match="query is quantised"):
            measure(model, small, checks.inputs_of("bert"), rounds=1)
        assert hies.collect(model, [batch], need=("ae",)).examples == 3


def tied_encoder():
    model = make("bert").eval()
    first, second = (layer.attention.self for layer in model.bert.encoder.layer)
    second.value.bias = first.value.bias
    return model, make_batch("bert"), "value"


def tied_memory():
    model = make("llama_grouped").eval()
    first, second = (layer.self_attn for layer in model.model.layers)
    second.o_proj.weight = torch.nn.Parameter(first.o_proj.weight.data)
    return model, make_batch("llama_grouped"), "o_proj"


def tied_norms():
    model = make("olmo2").eval()
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_norm.weight = first.q_norm.weight
    return model, make_batch("olmo2"), "q_norm"


def tied_blocks():
    return make("zamba").eval(), make_batch("zamba"), "q_proj"


@pytest.mark.parametrize("build", [tied_encoder, tied_memory, tied_norms, tied_blocks])
def test_weights_of_several_layers_are_not_cut(build):
    model, batch, part = build()
    for site in hies.find_sites(model, batch):
        with pytest.raises(hies.UnsupportedModelError, match=f"cannot be cut out: its {part} is shared with another"):
            hies.prune(model, {site: [0]})
    with pytest.raises(hies.UnsupportedModelError, match="is shared with another"):
        cut(model, {site: [0]})


@pytest.mark.parametrize("inplace", [False, True])
def test_what_keeps_the_matrices_of_before_is_refused(inplace):
    parallel = torch.nn.parallel.DistributedDataParallel
    wrapped = parallel.__new__(parallel)  # without a process group
    torch.nn.Module.__init__(wrapped)
    wrapped.module = make("bert")
    with pytest.raises(hies.UnsupportedModelError, match=r"give the model inside it \(its .module\)"):
        hies.prune(wrapped, {"module.bert.encoder.layer.0.attention.self": [0]}, inplace=inplace)
