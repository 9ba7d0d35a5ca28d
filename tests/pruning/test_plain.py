"""plain=True: what is left is an ordinary model of its architecture, or one sentence says why it cannot be."""

import json

import pytest
import torch
import transformers as tf
from small_folders import GROUPED, SIZES, write_folder
from tiny_models import make, make_batch

import hies
from hies.pruning.prunable_sites import PrunableSites
from hies.pruning.selection import Selection, group_sizes

BUILDS = {
    "llama": (tf.LlamaForCausalLM, lambda: tf.LlamaConfig(**SIZES), 1),
    "llama_grouped": (tf.LlamaForCausalLM, lambda: tf.LlamaConfig(**GROUPED), 3),
    "qwen3": (tf.Qwen3ForCausalLM, lambda: tf.Qwen3Config(**GROUPED, head_dim=8), 3),
    "mistral": (tf.MistralForSequenceClassification, lambda: tf.MistralConfig(**GROUPED, head_dim=8), 3),
}
WORDS = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10, 11]])}


def drawn(sites, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(site.heads, generator=generator) for name, site in sites.items()}


@pytest.mark.parametrize("name", BUILDS)
def test_from_pretrained_loads_what_is_left_and_gives_the_same_answers(name, tmp_path):
    kind, config, size = BUILDS[name]
    model = kind(config()).eval()
    sites = hies.prunable(model, WORDS)
    scores = drawn(sites)
    removed = hies.select(scores, 0.5, sites=sites, plain=True)
    for site, values in scores.items():  # in every layer the groups of the lowest mean
        means = [float(group.mean()) for group in values.split(size)]
        worst = sorted(range(len(means)), key=means.__getitem__)[: len(means) // 2]
        assert removed[site] == sorted(head for group in worst for head in range(group * size, (group + 1) * size))
    small = hies.prune(model, removed)
    assert hies.save_pruned(small, tmp_path) is True
    loaded = kind.from_pretrained(tmp_path)  # not by way of the library
    assert (loaded.config.num_attention_heads, loaded.config.num_key_value_heads) == (3, 3 // size)
    with torch.no_grad(), hies.masked(model, removed):
        torch.testing.assert_close(loaded(**WORDS).logits, small(**WORDS).logits)
        torch.testing.assert_close(loaded(**WORDS).logits, model(**WORDS).logits, rtol=1e-4, atol=1e-5)
    assert "init_continuous_batching" not in vars(small)  # which refuses where the configuration is wrong


@pytest.mark.parametrize("name", ["bert", "gpt2", "gpt_bigcode", "t5"])
def test_an_architecture_that_builds_no_fewer_heads_is_one_sentence(name):
    model, batch = make(name).eval(), make_batch(name)
    sites = hies.prunable(model, batch)
    assert not any(sites.plain.values())
    with pytest.raises(hies.ParameterError, match=f"plain is True; .* no {type(model).__name__} with fewer heads"):
        hies.select(drawn(sites), 0.5, sites=sites, plain=True)


def test_what_can_be_built_is_asked_of_the_architecture():
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES))
    counts = {tuple(numbers) for numbers in hies.prunable(model, WORDS).plain.values()}
    assert counts == {(1, 2, 3, 4)}  # LLaMA takes no 5, which does not divide the hidden size of 48
    qwen = tf.Qwen3ForCausalLM(tf.Qwen3Config(**{**SIZES, "num_key_value_heads": 6}, head_dim=8))
    assert {tuple(numbers) for numbers in hies.prunable(qwen, WORDS).plain.values()} == {(1, 2, 3, 4, 5)}


def test_a_pruned_model_becomes_plain():
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES)).eval()
    uneven = hies.prune(model, {site: [depth, 5] for depth, site in enumerate(hies.find_sites(model, WORDS))})
    sites = hies.prunable(uneven, WORDS)
    assert {tuple(numbers) for numbers in sites.plain.values()} == {(1, 2, 3)}
    small = hies.prune(uneven, hies.select(drawn(sites), 0.25, sites=sites, plain=True))
    assert small.config.num_attention_heads == 3


def test_groups_that_pruning_left_unequal_are_no_whole_ones():
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**{**SIZES, "num_key_value_heads": 2})).eval()  # three heads each
    sites = hies.find_sites(model, WORDS)
    left = hies.prunable(hies.prune(model, {site: [3, 4] for site in sites}), WORDS)
    assert {(site.heads, site.key_heads, site.group) for site in left.values()} == {(4, 2, None)}
    assert {tuple(counts) for counts in left.plain.values()} == {()}
    with pytest.raises(hies.HiesError, match=r"The 4 heads of site .* share 2 key/value heads unequally"):
        group_sizes(left)


class Sites(PrunableSites):
    """Seven heads in each of two sites, of which 2, 3 and 5 can be built."""

    def __init__(self):
        self.plain = {"a": [2, 3, 5], "b": [2, 3, 5]}
        site = hies.Site("a", 7, 7, 4, 1, 3, 3)
        super().__init__({"a": site, "b": site}, {}, torch.nn.Identity())


SCORES = {"a": torch.arange(7.0), "b": torch.arange(7.0) + 100}


@pytest.mark.parametrize(
    ("ratio", "stay"), [(0.0, 7), (0.1, 7), (1 / 7, 7), (0.2, 5), (0.42, 5), (3 / 7, 5), (0.5, 3), (0.6, 3), (1, 2)]
)
def test_the_nearest_number_stays_and_the_larger_of_two_as_near(ratio, stay):
    removed = hies.select(SCORES, ratio, sites=Sites(), plain=True)
    assert removed == ({site: list(range(7 - stay)) for site in SCORES} if stay < 7 else {})


def test_fewer_heads_than_the_floor_never_stay():
    assert hies.select(SCORES, 0.7, min_heads_per_layer=3, sites=Sites(), plain=True) == {"a": [0, 1, 2, 3],
                                                                                         "b": [0, 1, 2, 3]}  # fmt: skip


def test_the_note_says_how_many_stay_and_what_a_free_choice_would_lose():
    note = hies.select(SCORES, 0.5, sites=Sites(), plain=True).note
    assert "8 of 14 heads go; there stay 3 of 7 in each of 2 sites" in note and "fewer heads: 2, 3, 5)" in note
    plain, free = sum((0, 1, 2, 3, 100, 101, 102, 103)), sum(range(7)) + 100  # the free one takes all of the first site
    assert f"go sum to {plain}, those of as many chosen freely to {free}." in note


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sites": None}, "hies.prunable"),
        ({"sites": ["a", "b"]}, "hies.prunable"),
        ({"sites": Sites(), "ratio": 1.5}, "ratio is 1.5"),
        ({"sites": Sites(), "scores": {"a": torch.arange(7.0)}}, "'b' has no scores"),
        ({"sites": Sites(), "scores": {**SCORES, "b": torch.full((7,), float("nan"))}}, "not finite"),
        ({"sites": Sites(), "scores": {**SCORES, "b": torch.arange(8.0)}}, "give one number for each of its 7 heads"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(hies.HiesError, match=words):
        hies.select(**{"scores": SCORES, "ratio": 0.5, "plain": True, **options})


def test_it_goes_with_one_scoring_alone():
    with pytest.raises(hies.ParameterError, match="plain is True"):
        Selection(schedule="iterative", step=0.1, plain=True)


# --- the command line ---

TEXT = ["model=any", "model.name=words", "task.libraries=[joblib,jinja2]", "task.train_per_class=20",
        "task.selection_per_class=20", "task.report_per_class=31", "+model.label_order.apidocs=[0,1]",
        "calibration.size=8", "criterion=his", "sparsity.plain=true"]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    labels = {"id2label": {0: "joblib", 1: "jinja2"}, "label2id": {"joblib": 0, "jinja2": 1}}
    models = {
        "llama": tf.LlamaForSequenceClassification(tf.LlamaConfig(**GROUPED, **labels)),
        "bert": tf.BertForSequenceClassification(tf.BertConfig(**SIZES, **labels)),
    }
    folders = {name: write_folder(tmp_path_factory.mktemp(name), model) for name, model in models.items()}
    return {**folders, "cache": tmp_path_factory.mktemp("cache")}


@pytest.fixture
def call(folders, monkeypatch, capsys):
    from experiments import prune, run
    from experiments.sweep import job as job_module

    def call(command, name, *arguments):
        job_module._evaluators.clear()
        folder, cache = folders[name], folders["cache"]
        words = [*TEXT, f"model.source={folder}", f"+model.checkpoint.apidocs={folder}", f"cache_dir={cache}"]
        monkeypatch.setattr("sys.argv", ["command", *words, "wandb.mode=disabled", *arguments])
        status = {"prune": prune, "run": run}[command].main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_the_command_line_prunes_a_plain_model_and_says_what_that_costs(call, tmp_path):
    results = f"results_dir={tmp_path}/results"
    status, out, err = call("prune", "llama", "sparsity.ratio=0.3", f"out={tmp_path}/small")
    assert status == 0, err
    loaded = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert loaded.config.num_key_value_heads == 1
    (line,) = [line for line in out.splitlines() if line.startswith("plain: ")]
    assert "9 of 18 heads go; there stay 3 of 6 in each of 3 sites" in line
    status, _, err = call("run", "llama", "sparsity.ratios=[0.3,0.5]", results)
    free_status, _, err = call("run", "llama", "sparsity.plain=false", "sparsity.ratio=0.5", results)
    assert status == free_status == 0, err
    files = [path.read_text().splitlines() for path in sorted((tmp_path / "results").rglob("*.jsonl"))]
    plain, (_, free) = sorted([[json.loads(line) for line in rows] for rows in files], key=len, reverse=True)
    assert [row["heads_removed"] for row in plain] == [0, 9, 9] and all(row["plain"] for row in plain)
    assert plain[1]["mask"] == hies.pruned_heads(hies.load_pruned(tmp_path / "small")) and "plain" not in free
    assert f"chosen freely leave quality {free['quality']:.1f} % and stability {free['stability']:.1f} %." in line
    assert line.removeprefix("plain: ") in (tmp_path / "small" / "README.md").read_text()


@pytest.mark.parametrize(("command", "where"), [("prune", "out"), ("run", "results_dir")])
def test_the_command_line_refuses_it_in_one_sentence(call, tmp_path, command, where):
    status, _, err = call(command, "bert", f"{where}={tmp_path}/small", "sparsity.ratio=0.3")
    assert status in (1, 2) and "sparsity.plain is True; plain from_pretrained builds no BertFor" in err
    assert "Traceback" not in err and not [*tmp_path.rglob("*.jsonl"), *tmp_path.rglob("*.safetensors")]
