"""Log-likelihoods from trees of tokens against lm-eval's own wrapper, one text at a time."""

import numpy as np
import pytest
import torch
import transformers as tf
from architectures import DECODER, WORDS
from tiny_models import make
from tokenizers import Tokenizer, models

import hies
from hies.heads import branches
from hies.tasks import prefix_tree
from hies.tasks.base import TOKENS

pytest.importorskip("lm_eval")
HFLM = pytest.importorskip("lm_eval.models.huggingface").HFLM
prefix_model = pytest.importorskip("hies.tasks.prefix_model")

NAMED = ("llama_grouped", "qwen3", "gemma3", "gpt2", "opt", "mistral", "gpt_neox")  # windows of 4 tokens where any are
SETTINGS = {"backend": "causal", "batch_size": 3, "max_length": 31}


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    return tf.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")


def questions(seed=3, documents=5):
    """Options of one and of several tokens behind contexts that begin alike; some texts are too long for the models."""
    draw = np.random.default_rng(seed)
    found, common = [], draw.integers(2, 50, 7).tolist()
    for number in range(documents):
        context = common + draw.integers(2, 50, 2 + 5 * number).tolist()
        options = [draw.integers(2, 50, size).tolist() for size in (1, 5, 2)]
        found += [(None, context, option) for option in [*options, [*options[1][:-1], 51]]]
    return found


def compare(network, tokenizer, requests):
    """The answers of the plain way and of ours, and the tokens that ours took."""
    plain = HFLM(pretrained=network, tokenizer=tokenizer, **SETTINGS)._loglikelihood_tokens(requests, disable_tqdm=True)
    before = TOKENS.copy()
    ours = prefix_model.PrefixLM(pretrained=network, tokenizer=tokenizer, **SETTINGS)
    answers = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    return plain, answers, TOKENS - before


def check_equal(plain, ours):
    assert np.abs(np.subtract([a for a, _ in plain], [a for a, _ in ours])).max() < 1e-4
    assert [greedy for _, greedy in plain] == [greedy for _, greedy in ours]
    assert np.std([a for a, _ in plain]) > 3


@pytest.mark.parametrize("stem", [64, 5])
@pytest.mark.parametrize("name", NAMED)
def test_trees_give_the_answers_of_the_plain_way(name, stem, tokenizer, monkeypatch):
    monkeypatch.setattr(prefix_tree, "STEM", stem)
    monkeypatch.setattr(prefix_tree, "LONGEST", 8)
    network, requests = make(name).eval(), questions()
    before = network.config._attn_implementation
    plain, ours, _ = compare(network, tokenizer, requests)
    check_equal(plain, ours)
    proven = prefix_model._proven[network]
    assert proven.keys() == {False} | {stem == 5} and min(proven.values()) > 10  # cut texts share no stem
    assert network.config._attn_implementation == before and not network.lm_head._forward_pre_hooks


def test_what_differs_is_computed_once(tokenizer):
    network, requests = make("llama").eval(), [request for request in questions(documents=3) if len(request[1]) < 20]
    texts = [tuple(context + option)[:-1] for _, context, option in requests]
    compare(network, tokenizer, requests)
    tokens = compare(network, tokenizer, requests)[2]  # nothing has to be tried any more
    assert tokens["plain"] == sum(map(len, set(texts)))
    assert tokens["computed"] == len({text[: size + 1] for text in texts for size in range(len(text))})
    assert compare(network, tokenizer, [(None, [2], [3])])[2] == {"plain": 1, "computed": 1}


@pytest.mark.parametrize("name", ["lfm2", "recurrent_gemma"])
@pytest.mark.parametrize("stem", [64, 5])
def test_recurrent_layers_are_asked_plainly(name, stem, tokenizer, monkeypatch):
    monkeypatch.setattr(prefix_tree, "STEM", stem)
    monkeypatch.setattr(prefix_tree, "LONGEST", 8)
    network = make(name).eval()
    plain, ours, tokens = compare(network, tokenizer, questions())
    assert plain == ours and tokens["computed"] > tokens["plain"]
    assert 0 in prefix_model._proven[network].values()
    tokens = compare(network, tokenizer, questions())[2]  # it is not tried again
    assert tokens["computed"] == tokens["plain"]


def test_a_model_that_makes_its_own_biases_is_asked_plainly(tokenizer):
    torch.manual_seed(2)
    sizes = {"vocab_size": WORDS, "hidden_size": 36, "n_layer": 2, "n_head": 6, "initializer_range": 0.3}
    network = tf.BloomForCausalLM(tf.BloomConfig(**sizes)).eval()
    plain, ours, _ = compare(network, tokenizer, questions())
    assert plain == ours and prefix_model._proven[network] == {False: 0}


def test_attention_that_chooses_keys_of_equal_scores_is_asked_plainly(tokenizer):
    plain, ours, tokens = compare(make("deepseek_v32").eval(), tokenizer, questions(seed=4, documents=6))
    assert plain == ours and tokens["computed"] == tokens["plain"]  # trees are wrong for two


def test_an_answer_that_goes_wrong_is_noticed(tokenizer, monkeypatch):
    monkeypatch.setattr(branches.Branches, "along", lambda self, own: own)  # other branches are seen, too
    network = make("gpt2").eval()
    plain, ours, _ = compare(network, tokenizer, questions())
    assert plain == ours and prefix_model._proven[network] == {False: 0}


def test_rows_longer_than_those_tried_are_tried_as_well(tokenizer):
    network, lengths, computed = make("llama").eval(), [], []
    for documents in (1, 4, 4, 1):
        computed.append(compare(network, tokenizer, questions(documents=documents))[2]["computed"])
        lengths.append(prefix_model._proven[network][False])
    assert lengths[0] < lengths[1] == lengths[2] == lengths[3]
    assert computed[1] > computed[2] and computed[0] > computed[3]


def test_masked_and_pruned_models_are_answered_for_in_trees(tokenizer):
    network, removed = (
        make("llama_grouped").eval(),
        {"model.layers.0.self_attn": [0, 1, 2], "model.layers.1.self_attn": [4]},
    )
    whole = compare(network, tokenizer, questions())[0]
    with hies.masked(network, removed):
        plain, ours, _ = compare(network, tokenizer, questions())
    check_equal(plain, ours)
    assert np.abs(np.subtract([a for a, _ in plain], [a for a, _ in whole])).max() > 0.1
    small = hies.prune(network, removed)
    _, pruned, _ = compare(small, tokenizer, questions())
    check_equal(plain, pruned)
    assert prefix_model._proven[small][False] > 10


def test_eager_attention_and_low_precision_are_answered_for_in_trees(tokenizer):
    network = make("gemma2").eval()  # soft caps, which sdpa has not
    network.set_attn_implementation("eager")
    check_equal(*compare(network, tokenizer, questions())[:2])
    assert prefix_model._proven[network][False] > 10
    half = tf.LlamaForCausalLM(tf.LlamaConfig(**DECODER, initializer_range=0.2)).to(torch.bfloat16).eval()
    plain, ours, _ = compare(half, tokenizer, questions())
    assert prefix_model._proven[half][False] > 10
    assert np.allclose([a for a, _ in plain], [a for a, _ in ours], rtol=0.06)


def test_memory_that_runs_out_is_no_wrong_answer(tokenizer, monkeypatch):
    def exhausted(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = make("llama").eval()
    monkeypatch.setattr(prefix_model.PrefixLM, "_answer_in_trees", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        compare(network, tokenizer, questions())
    assert not prefix_model._proven[network]
