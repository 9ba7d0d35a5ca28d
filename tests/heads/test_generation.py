"""Generation with a key/value cache: a pruned decoder writes what it writes without one, as the masked one does."""

import pytest
import torch
from checks import Double, inputs_of
from tiny_models import make, some_heads

import hies

DECODERS = [
    *("llama_grouped", "gpt2", "gpt_neox", "opt", "mistral", "gemma2", "gemma3", "qwen3", "qwen3_next", "olmo2"),
    *("phi3", "stablelm", "gpt_bigcode", "gpt_oss", "deepseek_v3", "falcon_h1"),
]
SEQUENCES = ["t5", "bart", "umt5", "whisper", "moonshine"]
STATIC = [name for name in DECODERS if name not in ("qwen3_next", "falcon_h1")] + ["t5", "bart"]


def pruned(name, case):
    """A decoder with uneven numbers of heads, in double precision, where no word hangs on rounding; and its inputs."""
    model = make(name, torch.float64).eval()
    batch = inputs_of(name, "left" if name in DECODERS else "right")
    batch = {key: value for key, value in batch.items() if not key.startswith("decoder")}
    removed = some_heads(hies.find_sites(model, inputs_of(name)), case)
    return model, hies.prune(model, removed), removed, batch


def written(model, batch, **options):
    """Five words, greedily, and the logits of each, [words, batch, vocabulary]."""
    model.generation_config.eos_token_id = None
    with torch.no_grad(), Double():
        found = model.generate(
            **batch, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True,
            disable_compile=True, **options,
        )  # fmt: skip
    return found.sequences, torch.stack(found.logits)


def assert_same(one, two):
    assert torch.equal(one[0], two[0])
    torch.testing.assert_close(one[1], two[1], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", ["some", "a layer", "all"])
@pytest.mark.parametrize("name", [*DECODERS, *SEQUENCES])
def test_a_cache_changes_nothing(name, case):
    model, small, removed, batch = pruned(name, case)
    found = written(small, batch)
    assert_same(found, written(small, batch, use_cache=False))
    with hies.masked(model, removed):
        assert_same(found, written(model, batch))


@pytest.mark.parametrize("name", STATIC)
def test_a_cache_of_fixed_size_changes_nothing(name):
    _, small, _, batch = pruned(name, "a layer")
    assert_same(written(small, batch, cache_implementation="static"), written(small, batch))


def test_a_pruned_layer_keeps_only_the_groups_that_are_left():
    _, small, removed, batch = pruned("llama_grouped", "a layer")
    with torch.no_grad():
        cache = small(**batch, use_cache=True).past_key_values
    first, second = removed.values()
    assert len(second) == 6 and not cache.layers[1].keys.any()
    assert cache.layers[0].keys.shape[1] == len({head // 3 for head in range(6) if head not in first})
    one_group = hies.prune(make("llama_grouped"), {site: [3, 4, 5] for site in removed})
    assert one_group(**batch, use_cache=True).past_key_values.layers[0].keys.shape[1] == 1
