"""The pages say what is true: links resolve, Python runs, commands compose, and what the code offers is named."""

import ast
import importlib.util
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import transformers as tf
from small_folders import GROUPED, SIZES, spelling_tokenizer, write_folder
from tiny_models import make, make_batch

import hies
from analysis import registry
from experiments import run
from hies.evaluation.models import Model
from hies.pruning.files import RECORD
from hies.tasks import TASKS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "prune-your-model.md"
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REPORTS = [*sorted((ROOT / "reports").glob("*.md")), *sorted((ROOT / "reports").glob("*/README.md"))]
EVERY_PAGE = [*DOCS, ROOT / "CHANGELOG.md", *REPORTS]
# A tiny model of the same architecture stands for each one that the page takes from the Hub.
STANDS_FOR = {
    "textattack/bert-base-uncased-SST-2": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SIZES)),
    "Qwen/Qwen3-0.6B": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GROUPED, head_dim=8)),
}


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def prose(page):
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]


# --- Links and indexes ---


@pytest.mark.parametrize("page", EVERY_PAGE, ids=name_of)
def test_every_relative_link_resolves(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), f"{link} in {name_of(page)}"
        if anchor:
            assert anchor in anchors(target), f"{link} in {name_of(page)}"


@pytest.mark.parametrize(
    ("index", "pages"),
    [(ROOT / "docs" / "README.md", DOCS), (ROOT / "reports" / "README.md", REPORTS)],
    ids=["docs", "reports"],
)
def test_an_index_links_every_page(index, pages):
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert {*pages} - linked <= {index}


def test_the_index_of_reports_links_every_table_and_every_kind_of_figure():
    text = (ROOT / "reports" / "README.md").read_text()
    for table in sorted((ROOT / "reports").glob("glue-minilm/tables/*.md")):
        every = table.name.startswith("leaderboard__")  # of these one link stands for all, as of figures
        assert (f"{table.parent.name}/leaderboard__" if every else f"({table.relative_to(ROOT / 'reports')})") in text
    for figure in sorted((ROOT / "reports").glob("*/figures/*.png")):
        assert f"figures/{figure.name.split('__')[0]}__" in text, figure.name


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_paths_that_pages_name_are_there():
    roots = "|".join(("hies", "experiments", "analysis", "conf", "tests", "benchmarks", "reports", "docs"))
    for page in [*DOCS, *REPORTS]:
        for path in re.findall(rf"`((?:{roots})/[\w./-]+)`", prose(page)):
            if not any(word in path for word in ("NAME", "METHOD", "FOLDER")):
                variant = ROOT / "conf" / "criterion" / f"{path}.yaml"  # `hies/rank` is no path
                assert (ROOT / path).exists() or variant.exists(), f"{path} in {name_of(page)}"


# --- What the code offers is named ---


def options_of(kind):
    """The fields of a dataclass that the command line sets; `name` of tasks and criteria is no option."""
    return {option.name for option in fields(kind)}


def test_the_options_page_names_every_option_and_every_choice():
    text = (ROOT / "docs" / "options.md").read_text()
    wanted = {f"model.{name}" for name in options_of(Model)}
    wanted |= {f"task.{name}" for kind in TASKS.values() for name in options_of(kind)}
    wanted |= {f"criterion.{name}" for kind in hies.methods.METHODS.values() for name in options_of(kind)}
    wanted |= {*TASKS, *hies.methods.METHODS}
    for group in ("model", "experiment", "sparsity", "criterion", "task"):
        for path in (ROOT / "conf" / group).rglob("*.yaml"):
            wanted.add(str(path.relative_to(ROOT / "conf" / group).with_suffix("")))
    assert not {name for name in wanted if f"`{name}`" not in text and f"={name}`" not in text}


def test_the_options_page_names_every_option_of_a_job(capsys, monkeypatch):
    text = (ROOT / "docs" / "options.md").read_text()
    composed = compose([], capsys, monkeypatch)
    top = re.findall(r"^(\w+):(.*)$", composed, flags=re.MULTILINE)
    groups = {name for name, value in top if not value.strip()}
    keys = {name for name, value in top} - groups
    for group in ("sparsity", "calibration", "wandb", "resources"):
        section = re.search(rf"^{group}:\n((?:  .*\n)*)", composed, flags=re.MULTILINE).group(1)
        keys |= {f"{group}.{name}" for name in re.findall(r"^  (\w+):", section, flags=re.MULTILINE)}
    assert len(keys) > 20
    assert not {key for key in keys if f"`{key}`" not in text}


def test_the_methods_page_names_every_criterion():
    text = (ROOT / "docs" / "methods.md").read_text()
    assert all(f"`{name}`" in text for name in hies.methods.METHODS)


def test_the_equations_page_names_functions_that_are_there():
    defined = set()
    for path in (ROOT / "hies").rglob("*.py"):
        defined |= {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    rows = re.findall(r"^\|.*\|$", prose(ROOT / "docs" / "equations.md"), flags=re.MULTILINE)
    words = {word for row in rows for word in re.findall(r"`([a-z_0-9]+)`", row)}
    assert len(words) > 20
    assert words <= defined
    equations = ast.parse((ROOT / "hies" / "equations.py").read_text()).body
    assert {n.name for n in equations if isinstance(n, ast.FunctionDef) and n.name[0] != "_"} <= words


def test_the_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()


# --- Commands ---

COMPOSED = {f"experiments.{name}" for name in ("run", "status", "prune", "finetune", "diagnose")}
COMMANDS = sorted(
    {
        line.partition("#")[0].strip().removeprefix("export ")
        for page in [*DOCS, *REPORTS]
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
    }
)


def compose(words, capsys, monkeypatch):
    """What `--cfg job` prints for the first job of a command line."""
    first = [word if "[" in word else re.sub(r",.*", "", word) for word in words if word != "-m"]
    monkeypatch.setattr("sys.argv", ["run", "--cfg", "job", *first])
    status = run.main()
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python -m experiments")])
def test_commands_of_the_pages_compose(line, capsys, monkeypatch):
    module, *words = shlex.split(line)[2:]
    assert importlib.util.find_spec(module) is not None
    if module in COMPOSED:
        assert "criterion:" in compose(words, capsys, monkeypatch)


@pytest.mark.parametrize("line", [line for line in COMMANDS if re.match(r"python -m (analysis|benchmarks)", line)])
def test_commands_that_draw_or_measure_name_what_is_there(line):
    module, *words = shlex.split(line)[2:]
    assert importlib.util.find_spec(module) is not None
    if module == "analysis":
        names = words[: next((place for place, word in enumerate(words) if word.startswith("--")), len(words))]
        assert {*names} <= {*registry.entries()}


def test_what_the_pages_make_is_a_target():
    targets = set(re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[0].split())
    makefile = (ROOT / "Makefile").read_text()
    lists = dict(re.findall(r"^(FROM_\w+) := (.*)$", makefile, flags=re.MULTILINE))
    targets |= {name for names in lists.values() for name in names.split()}
    for page in [*DOCS, *REPORTS]:
        inline = re.findall(r"`make ([^`]+)`", page.read_text())
        lines = [line.removeprefix("make ") for line in COMMANDS if line.startswith("make ")]
        for words in [*inline, *lines]:
            names = [word for word in words.replace("\n", " ").split() if "=" not in word]
            assert {*names} <= targets, f"make {words} in {name_of(page)}"


ITEMS = {  # of the paper
    *(f"figure {number}" for number in ("1", "2c", "3", "4", "7", "8", "9", "10", "11", "12", "13")),
    *(f"table {number}" for number in (1, 2, 3, 7, 8, 9, 10, 11, 12)), "E.1", "E.2",
}  # fmt: skip


def test_every_item_of_the_paper_has_a_file_and_a_command_of_this_tree(capsys, monkeypatch):
    page = ROOT / "reports" / "README.md"
    rows = [row.split("|") for row in page.read_text().splitlines() if re.match(r"\| (figure|table|E)[ .]\d", row)]
    assert {row[1].partition(",")[0].strip() for row in rows} == ITEMS and {len(row) for row in rows} == {7}
    for row in rows:
        files = [page.parent / link for link in re.findall(r"\]\(([^)]+)\)", row[3])]
        assert files and all(file.exists() and file.parent.name in ("figures", "tables") for file in files), row[1]
        assert all(row[column].strip() for column in (2, 4, 5)), row[1]
        for command in re.findall(r"`(python -m experiments[^`]+)`", row[2]):
            assert "criterion:" in compose(shlex.split(command)[3:], capsys, monkeypatch)
        assert re.search(r"`(make|python -m) ", row[2]), row[1]


# --- Python ---


def test_the_python_of_the_readme_runs_and_leaves_the_model_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model, batch = make("bert"), make_batch("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (code,) = blocks(ROOT / "README.md", "python")
    query, key = torch.randn(2, 1, 2, 7, 5)  # each [batch, heads, tokens, width]
    names = {"model": model, "batches": [batch], "batch": batch, "query": query, "key": key}
    names |= {"tokenizer": spelling_tokenizer(), "texts": ["a b c", "d", "e f"], "labels": [0, 2, 1]}
    exec(compile(code, "README.md", "exec"), names)
    assert sum(map(len, hies.pruned_heads(names["small"]).values())) == 5
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_the_python_of_the_methods_page_runs_and_leaves_the_model_alone():
    model, batch = make("bert"), make_batch("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (code,) = blocks(ROOT / "docs" / "methods.md", "python")
    names = {"model": model, "batches": [batch], "batch": batch}
    exec(compile(code, "methods.md", "exec"), names)
    assert names["narrow"] is not model and names["masked"] is model
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_the_python_of_every_other_page_is_run_by_a_test():
    tested = {ROOT / "README.md", ROOT / "docs" / "methods.md", PAGE}
    for page in {*EVERY_PAGE} - tested:
        for code in blocks(page, "python"):
            exec(compile(code, name_of(page), "exec"), {"hies": hies})


@pytest.fixture(scope="module")
def page_run(tmp_path_factory):
    """The names that the page's Python leaves behind, what it printed, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("page")
    code = "".join(blocks(PAGE, "python"))
    for place, (name, build) in enumerate(STANDS_FOR.items()):
        assert f'"{name}"' in code
        write_folder(folder / f"model-{place}", build())
        code = code.replace(f'"{name}"', repr(str(folder / f"model-{place}")))
    names, printed = {"print": lambda *words: printed.append(" ".join(map(str, words)))}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, str(PAGE), "exec"), names)
    return names, printed, folder


def test_the_python_of_the_page_leaves_two_folders_that_load(page_run):
    _, _, folder = page_run
    for name, kind in (("sst2-small", tf.BertForSequenceClassification), ("qwen-small", tf.Qwen3ForCausalLM)):
        assert type(hies.load_pruned(folder / name)) is kind
        assert (folder / name / RECORD).exists()
    assert tf.AutoTokenizer.from_pretrained(folder / "sst2-small")("clever")["input_ids"]


def test_the_shares_that_the_page_removes_are_removed(page_run):
    names, _, folder = page_run
    classifier, causal = (hies.pruned_heads(hies.load_pruned(folder / name)) for name in ("sst2-small", "qwen-small"))
    assert sum(map(len, classifier.values())) == round(0.3 * 18)
    assert sum(map(len, causal.values())) == 3  # one group of three of 18 heads is nearest to a quarter of them, 4
    assert sum(map(len, hies.pruned_heads(names["smaller"]).values())) == 5 + round(0.3 * 13)


def test_what_the_page_prints_is_smaller_than_one(page_run):
    _, printed, _ = page_run
    (table,) = (text for text in printed if text.startswith("Qwen3ForCausalLM"))
    words = [line.rsplit(maxsplit=1) for line in table.splitlines() if line.startswith(("parameters", "FLOPs", "key/"))]
    shares = [float(share) for _, share in words]
    assert len(shares) == 3 and all(0 < share < 1 for share in shares)
    assert shares[-1] == pytest.approx(5 / 6, abs=0.01)  # one of six key/value heads


def test_the_page_fine_tunes_what_it_saves(page_run):
    names, _, folder = page_run
    saved = hies.load_pruned(folder / "sst2-small")
    start = tf.AutoModelForSequenceClassification.from_pretrained(folder / "model-0")
    assert all((a == b).all() for a, b in zip(saved.parameters(), names["small"].parameters(), strict=True))
    assert (saved.classifier.weight != start.classifier.weight).any()


def test_another_head_on_the_page_reads_the_same_pruned_layers(page_run):
    names, _, _ = page_run
    assert hies.pruned_heads(names["tagger"]) == hies.pruned_heads(names["fewer"]) == names["chosen"]
    inputs = {key: value for key, value in names["batch"].items() if key != "labels"}
    with torch.no_grad():
        hidden, other = (names[name].eval().base_model(**inputs).last_hidden_state for name in ("fewer", "tagger"))
    assert torch.equal(hidden, other)
    torch.testing.assert_close(names["answers"], names["fewer"](**inputs).logits)


def test_a_repository_name_loads_what_was_pushed(page_run, monkeypatch, tmp_path):
    """The Hub's cache as a download leaves it, since tests run offline."""
    _, _, folder = page_run
    place = tmp_path / "models--you--sst2-small"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    (place / "snapshots" / ("0" * 40)).symlink_to(folder / "sst2-small")
    for module in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path))
    pushed, local = hies.load_pruned("you/sst2-small"), hies.load_pruned(folder / "sst2-small")
    assert hies.pruned_heads(pushed) == hies.pruned_heads(local) != {}
