"""docs/prune-your-model.md does what it says: its Python runs, its commands compose."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers as tf
from command_line import composing, declared
from small_folders import GROUPED, SIZES, write_folder
from tiny_models import make, make_batch

import hies
from hies.pruning.files import RECORD

PAGE = Path(__file__).parent.parent / "docs" / "prune-your-model.md"
# A tiny model of the same architecture stands for each one that the page takes from the Hub.
STANDS_FOR = {
    "textattack/bert-base-uncased-SST-2": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SIZES)),
    "Qwen/Qwen3-0.6B": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GROUPED, head_dim=8)),
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The names that the page's Python leaves behind, what it printed, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("page")
    code = "".join(blocks("python"))
    for place, (name, build) in enumerate(STANDS_FOR.items()):
        assert f'"{name}"' in code
        write_folder(folder / f"model-{place}", build())
        code = code.replace(f'"{name}"', repr(str(folder / f"model-{place}")))
    names, printed = {"print": lambda *words: printed.append(" ".join(map(str, words)))}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, str(PAGE), "exec"), names)
    return names, printed, folder


def test_the_python_of_the_page_leaves_two_folders_that_load(told):
    _, _, folder = told
    for name, kind in (("sst2-small", tf.BertForSequenceClassification), ("qwen-small", tf.Qwen3ForCausalLM)):
        assert type(hies.load_pruned(folder / name)) is kind
        assert (folder / name / RECORD).exists()
    assert tf.AutoTokenizer.from_pretrained(folder / "sst2-small")("clever")["input_ids"]


def test_the_shares_that_the_page_asks_for_are_gone(told):
    names, _, folder = told
    classifier, causal = (hies.pruned_heads(hies.load_pruned(folder / name)) for name in ("sst2-small", "qwen-small"))
    assert sum(map(len, classifier.values())) == round(0.3 * 18)
    assert sum(map(len, causal.values())) == 3  # one group of three of 18 heads is nearest to a quarter of them, 4
    assert sum(map(len, hies.pruned_heads(names["smaller"]).values())) == 5 + round(0.3 * 13)


def test_what_the_page_prints_is_smaller_than_one(told):
    _, printed, _ = told
    words = [line.split() for line in printed]
    shares = {line[0]: float(line[1]) for line in words if line[0] in ("parameters", "FLOPs", "cache")}
    assert len(shares) == 3
    assert all(0 < share < 1 for share in shares.values())
    assert shares["cache"] == pytest.approx(5 / 6, abs=0.01)  # one of six key/value heads


def test_the_page_fine_tunes_what_it_saves(told):
    names, _, folder = told
    saved = hies.load_pruned(folder / "sst2-small")
    start = tf.AutoModelForSequenceClassification.from_pretrained(folder / "model-0")
    assert all((a == b).all() for a, b in zip(saved.parameters(), names["small"].parameters(), strict=True))
    assert (saved.classifier.weight != start.classifier.weight).any()


def test_another_head_on_the_page_reads_the_same_pruned_layers(told):
    names, _, _ = told
    assert hies.pruned_heads(names["tagger"]) == hies.pruned_heads(names["fewer"]) == names["chosen"]
    inputs = {key: value for key, value in names["batch"].items() if key != "labels"}
    with torch.no_grad():
        hidden, other = (names[name].eval().base_model(**inputs).last_hidden_state for name in ("fewer", "tagger"))
    assert torch.equal(hidden, other)
    torch.testing.assert_close(names["answers"], names["fewer"](**inputs).logits)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if "python -m" in line])
def test_the_commands_of_the_page_compose(line, glue_copy, tmp_path):
    words = shlex.split(line.replace("FOLDER", str(tmp_path)))
    assert words[:3] == ["python", "-m", "experiments.prune"]
    with composing():
        (job,) = declared(*words[3:], f"data_root={glue_copy}", multirun=False).jobs
    assert job.config.out and len(job.config.sparsity.ratios) == 1


def test_a_repository_name_loads_what_was_pushed(told, monkeypatch, tmp_path):
    """The Hub's cache as a download leaves it, since tests run offline."""
    _, _, folder = told
    place = tmp_path / "models--you--sst2-small"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    (place / "snapshots" / ("0" * 40)).symlink_to(folder / "sst2-small")
    for module in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path))
    pushed, local = hies.load_pruned("you/sst2-small"), hies.load_pruned(folder / "sst2-small")
    assert hies.pruned_heads(pushed) == hies.pruned_heads(local) != {}


def test_the_python_of_the_methods_page_runs_and_leaves_the_model_alone():
    model, batch = make("bert"), make_batch("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = (PAGE.parent / "methods.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    names = {"model": model, "batches": [batch], "batch": batch}
    exec(compile(code, "methods.md", "exec"), names)
    assert names["narrow"] is not model and names["masked"] is model
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_the_methods_page_names_every_criterion():
    text = (PAGE.parent / "methods.md").read_text()
    assert all(f"`{name}`" in text for name in hies.methods.METHODS)
