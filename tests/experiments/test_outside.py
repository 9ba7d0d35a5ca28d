"""Methods and tasks from outside: the files of the page, mistakes in such files, and who may import them."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from command_line import composing, declared, rows_of
from hydra import compose
from hydra.core.config_store import ConfigStore

from analysis import style
from analysis.data.rows import load
from analysis.text.measures import MEASURE_OF
from experiments import rerun, run
from experiments.config import outside, schema, store
from experiments.sweep.job import COMMAND
from hies.errors import HiesError
from hies.runs.pack import pack
from hies.scoring.statistics import METHOD_STATISTICS, outside_sources
from hies.storage import source_of, sources_of

PAGE = Path(__file__).parents[2] / "docs" / "your-method.md"
SMALL = [
    *("model.architecture.num_hidden_layers=2", "model.architecture.hidden_size=16", "model.finetune.epochs=1"),
    *("calibration.size=5", "task.max_examples=31", "sparsity.ratios=[0.4]", "wandb.mode=disabled", "seed=0"),
]
DIGITS = ["model=vit_tiny", "task=digits"]
HEAD = "from dataclasses import dataclass\nimport hies\nfrom hies.tasks.base import ClassifierTask\n"
METHOD = """
@dataclass(frozen=True)
class Mine(hies.ScoringMethod):
    name = "mine"
    beta: float = 1.0
    seed: int = 0
    kinds: list[str] | None = None
    def score(self, statistics): return {}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder as the current one, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # Compiled code is told by second and size of its source: of two sources that share them it would be the first's.
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    before = {*sys.modules}, dict(METHOD_STATISTICS)
    yield tmp_path
    forget(before[0])
    METHOD_STATISTICS.clear()
    METHOD_STATISTICS.update(before[1])


def forget(kept):
    for name in {*sys.modules} - kept:
        if getattr(sys.modules[name], "__file__", None) and "site-packages" not in sys.modules[name].__file__:
            del sys.modules[name]
    source_of.cache_clear()


def written(folder, text=METHOD, name="my_module"):
    (folder / f"{name}.py").write_text(HEAD + text)
    sys.modules.pop(name, None)
    source_of.cache_clear()
    return folder


def of(*words):
    with composing():
        return schema.to_config(compose("config", [*DIGITS, *words]))


def job_of(*words):
    with composing():
        (job,) = declared(*DIGITS, *words, multirun=False).jobs
        return job


MINE = ("criterion=custom", "criterion._target_=my_module.Mine")


# --- The page ---


def write_page(folder):
    """Writes the page's files under the names that it gives them; returns its commands that make rows."""
    text = PAGE.read_text()
    for block in re.finditer(r"^```(python|yaml)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        names = re.findall(r"`((?:own/\w+/)?\w+\.(?:py|yaml))`", text[: block.start()])
        of_kind = [name for name in names if name.endswith(".py") == (block[1] == "python")]
        name = of_kind[0] if block[1] == "yaml" and not (folder / of_kind[0]).exists() else of_kind[-1]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(block[2])
    return re.findall(r"^python -m experiments\.run (.*)$", text, flags=re.MULTILINE)


def test_the_page_leads_from_a_file_to_curves(folder, cache, monkeypatch, capsys):
    commands = write_page(folder)
    commands.append("model=vit_tiny task=digits criterion=custom criterion._target_=my_peak.Peak name=peak")
    assert len(commands) == 5
    for words in commands:
        monkeypatch.setattr("sys.argv", ["run", *shlex.split(words), *SMALL, f"cache_dir={cache}"])
        assert run.main() == 0, capsys.readouterr().err
    assert "focused, criterion.beta=0.5" in capsys.readouterr().out
    rows = [row for row in rows_of(folder / "results") if row["ratio"]]
    found = {(row["experiment"], row["task"], row["criterion"], row.get("beta")) for row in rows}
    assert found >= {("mine", "digits", "focused", beta) for beta in (0.5, 2)}
    assert found >= {("peak", "digits", "peak", None), ("stripes", "stripes", "hies", None)}
    sources = {row.get("source", "").partition("@")[0] for row in rows}
    assert sources == {"my_score.Focused", "my_peak.Peak", "my_task.Stripes", ""}
    curves = style.looks(load(folder / "results", "mine"))
    assert {"focused (beta = 0.5)", "focused (beta = 2)", "FLAP", "HIS"} <= {*curves}
    assert curves["focused (beta = 2)"]["color"] not in (curves["HIS"]["color"], curves["FLAP"]["color"])

    pack(folder / "results" / "mine", folder / "packed")
    assert str(folder) not in (folder / "packed" / "grid.json").read_text()
    paths = (folder / "results" / "mine").glob("*-focused-*.jsonl")
    path = next(path for path in paths if f"--config-dir={folder}/own " in path.read_text())
    for given, says in (([], "give --config-dir=... yourself"), (["--config-dir", "own"], "nothing differs")):
        monkeypatch.setattr("sys.argv", ["rerun", path.stem, f"cache_dir={cache}", *given])
        rerun.main()
        assert says in "".join(capsys.readouterr())


# --- Options, and what a run is known by ---


def test_options_are_those_of_the_class(folder):
    written(folder)
    criterion = of(*MINE, "criterion.beta=3", "criterion.kinds=[a,b]", "seed=7").criterion
    assert (criterion.name, criterion.beta, criterion.kinds, criterion.seed) == ("mine", 3.0, ["a", "b"], 7)
    assert of(*MINE, "criterion.seed=5", "seed=7").criterion.seed == 5
    assert of(*MINE, "criterion.beta=${seed}", "seed=7").criterion.beta == 7


def test_a_run_is_known_by_class_options_and_code(folder):
    twin = METHOD.replace("Mine", "Twin")
    written(folder, METHOD + twin)
    ids = [job_of(*MINE).run_id, job_of(*MINE, "criterion.beta=2").run_id,
           job_of(MINE[0], "criterion._target_=my_module.Twin").run_id]  # fmt: skip
    assert job_of(*MINE).run_id == ids[0]
    written(folder, METHOD + twin + "# changed\n")
    ids.append(job_of(*MINE).run_id)
    assert len({*ids}) == 4 and "source" not in job_of("criterion=his").identity


def test_the_digest_covers_a_whole_package_and_bases_elsewhere(folder):
    package = folder / "my_package"
    package.mkdir()
    for name, text in {"__init__": "", "helper": "", "score": HEAD + METHOD}.items():
        (package / f"{name}.py").write_text(text)
    found = [source_of("my_package.score")]
    (package / "helper.py").write_text("X = 1")
    source_of.cache_clear()
    found.append(source_of("my_package.score"))
    assert len({*found, None}) == 3
    assert source_of("hies.methods.his") is None is source_of("json")
    written(folder, "from my_package.score import Mine as Base\nclass Mine(Base): name = 'other'\n")
    before = sources_of(outside.imported("criterion", "my_module.Mine"))
    (package / "helper.py").write_text("X = 2")
    source_of.cache_clear()
    assert sources_of(outside.imported("criterion", "my_module.Mine")) != before


def test_a_statistic_from_another_module_is_part_of_what_a_run_is_known_by(folder):
    write_page(folder)
    peak = (folder / "my_peak.py").read_text()
    (folder / "my_module.py").write_text("from my_peak import Peak\n\nclass Mine(Peak): name = 'mine'\n")
    (folder / "my_other.py").write_text(peak)
    (folder / "my_peak.py").write_text(peak.replace("my_peak:peaks", "my_other:peaks"))
    found = [outside.source_of_job(of(*MINE))]
    (folder / "my_other.py").write_text(f"{peak}# changed\n")
    source_of.cache_clear()
    found.append(outside.source_of_job(of(*MINE)))
    names = [[part.partition("@")[0] for part in one["source"].split(", ")] for one in found]
    assert names[0][0] == names[1][0] == "my_module.Mine" and names[0][1] != names[1][1]


def test_what_is_cached_goes_by_the_code_of_a_task_and_of_a_statistic(folder):
    write_page(folder)
    task = outside.imported("task", "my_task.Stripes")()
    outside.imported("criterion", "my_peak.Peak")
    found = [(task.fingerprint(None), outside_sources(["his", "l2", "peaks", "greedy"]))]
    for name in ("my_task.py", "my_peak.py"):
        (folder / name).write_text((folder / name).read_text() + "# changed\n")
    source_of.cache_clear()
    found.append((task.fingerprint(None), outside_sources(["peaks"])))
    assert all(one != other for one, other in zip(*found, strict=True)) and len(found[0][1]) == 1


def test_an_installed_package_offers_its_classes(folder):
    written(folder)
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hies.methods]\nfrom_package = my_module:Mine\nhis = my_module:Mine\n")
    assert outside.choices("criterion") == {"custom": "???", "from_package": "my_module.Mine"}
    with composing():
        store._store_outside("criterion")
    assert "my_module" not in sys.modules
    assert of("criterion=from_package", "criterion.beta=2").criterion.beta == 2
    ConfigStore.instance().repo["criterion"].pop("from_package.yaml")


# --- Mistakes ---

WRONG = {
    "def x(:": ("my_module.X", "importing my_module failed: SyntaxError"),
    "import not_there": ("my_module.X", "importing my_module failed: there is no module 'not_there'"),
    "raise SystemExit(3)": ("my_module.X", "importing my_module failed: SystemExit: 3"),
    "X = 1": ("my_module.X", "it is no class"),
    "class X: pass": ("my_module.X", "it is no class built on hies.ScoringMethod"),
    "class X(hies.ScoringMethod): name = 'x'": ("my_module.X", "it has no score, which hies.ScoringMethod"),
    f"{METHOD}    name = None": ("my_module.Mine", "it needs a name of letters.* has None"),
    f"{METHOD}    name = 'a b'": ("my_module.Mine", "it needs a name of letters.* has 'a b'"),
    f"{METHOD}    name = 'hies'": ("my_module.Mine", "its name is 'hies', which criterion=hies has"),
    f"{METHOD}    needs = 'his'": ("my_module.Mine", r"its needs are a string; write needs = frozenset\({'his'}\)"),
    f"{METHOD}    ratio: float = 1": ("my_module.Mine", "its option 'ratio' has the name of a key of rows"),
    f"{METHOD}class Bare(Mine):\n    gamma: float = 1": ("my_module.Bare", "'gamma' is none without @dataclass"),
    "": ("my_module.X", "my_module has no 'X'"),
    " ": ("X", "give MODULE.CLASS"),
    "  ": ("my_modul.X", "there is no module 'my_modul' in the current directory"),
    "   ": ("hies.tasks.ApiDocs", "it is no class built on hies.ScoringMethod"),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_class_that_cannot_be_a_method_is_one_sentence(folder, text):
    target, says = WRONG[text]
    written(folder, text)
    with pytest.raises(HiesError, match=f"^criterion._target_ is '{target}'; .*{says}"):
        outside.imported("criterion", target)


def test_no_option_of_a_method_has_the_name_of_a_key_of_rows(folder, cache, monkeypatch):
    score = "{s: torch.arange(float(n)) for s, n in statistics.heads.items()}"
    written(folder, f"import torch\n{METHOD.replace('{}', score)}")
    words = [*DIGITS, *MINE, *SMALL, "sparsity=iterative", "sparsity.unit=kv_group", "model.sites=prunable",
             "criterion.seed=3", "calibration.examples=selection", "calibration.labels=model"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["run", *words, f"cache_dir={cache}", f"results_dir={folder}/results"])
    assert run.main() == 0
    rows = [*rows_of(folder / "results"), *load(folder / "results").to_dict("records")]
    keys = {key for row in rows for key in row} - {"beta", "kinds", "seed"}
    assert keys >= {"unit", "step", "sites", "calibration_labels", "criterion_seed", "source", "curve"}
    assert keys - {*MEASURE_OF} <= outside.RESERVED  # measures that analysis computes have no place in a row
    for name in (*sorted(keys & outside.RESERVED), "chance", "judge", "calibration_source", "plain"):
        written(folder, f"{METHOD}    {name}: float = 1")
        with pytest.raises(HiesError, match=f"its option '{name}' has the name of a key of rows"):
            outside.imported("criterion", "my_module.Mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it has no answers, encode, label_names, load"),
        ("class X(ClassifierTask): name, modality = 'rte', 'text'", "'rte', which task=rte has already"),
        ("class X(ClassifierTask): name, modality = 'x', 'smell'", "its modality is 'smell'; use text or image"),
        ("class X(ClassifierTask): name, modality, metric = 'x', 'text', 'luck'", "its metric is 'luck'; use accuracy"),
        (
            "class X(ClassifierTask): name, modality, metric, scores = 'x', 'text', 'pearson', (0, 1)",
            r"its metric is 'pearson', which takes scores = \(0, 5\)",
        ),
    ],
)
def test_a_class_that_cannot_be_a_task_is_one_sentence(folder, text, says):
    methods = "\n    def load(self, r, c): pass\n    def label_names(self, r=None): return ()\n"
    text = (
        text.replace(": name", ":\n    name") + methods if text else "from hies.tasks import Task\nclass X(Task): pass"
    )
    written(folder, text)
    with pytest.raises(HiesError, match=f"^task._target_ is 'my_module.X'; .*{says}"):
        outside.imported("task", "my_module.X")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (MINE[:1], "criterion=custom needs a class: give criterion._target_=MODULE.CLASS"),
        ((*MINE, "criterion.bta=1"), "There is no option 'criterion.bta'; my_module.Mine has beta, seed, kinds"),
        ((*MINE, "criterion.beta=high"), "criterion.beta is 'high'; my_module.Mine takes float"),
        ((MINE[0], "criterion._target_=my_module.Bare"), "criterion.gamma is missing; my_module.Bare has no default"),
        ((MINE[0], "criterion._target_=my_module.Odd"), "an option of a type that no command line can give"),
        ((MINE[0], "criterion._target_=my_module.Picky"), "options of criterion are refused: ZeroDivisionError: no"),
    ],
)
def test_an_option_that_is_wrong_is_one_sentence(folder, words, says):
    line = "@dataclass(frozen=True)\nclass {}(Mine):\n    name = 'it'\n    {}\n"
    picky = "def __post_init__(self): raise ZeroDivisionError('no')"
    parts = {"Bare": "gamma: float = None", "Odd": "gamma: object() = 1", "Picky": picky}
    text = METHOD + "".join(line.format(*part) for part in parts.items())
    text = text.replace("gamma: float = None", "gamma: float = '???'")
    written(folder, text)
    with pytest.raises(HiesError, match=says):
        of(*words)


def test_code_that_fails_is_named_by_its_line(folder, monkeypatch, capsys):
    write_page(folder)
    text = (
        (folder / "my_task.py").read_text().replace("every = Split(", "every = dict(x=1)['y']\n        every = Split(")
    )
    (folder / "my_task.py").write_text(text)
    line = text[: text.index("['y']")].count("\n") + 1
    monkeypatch.setattr("sys.argv", ["run", "model=vit_tiny", "task=custom", "task._target_=my_task.Stripes", *SMALL])
    assert run.main() == 2
    assert capsys.readouterr().err.endswith(f"error: my_task.py, line {line}: KeyError: 'y'.\n")


def test_a_method_that_fails_in_a_job_is_named_by_its_line(folder, cache, monkeypatch, capsys):
    written(folder, METHOD.replace("return ", "return {}['nowhere'] or "))
    words = [*DIGITS, *MINE, *SMALL, f"cache_dir={cache}", f"results_dir={folder}/failed"]
    monkeypatch.setattr("sys.argv", ["run", *words])
    assert run.main() == 1
    assert re.search(r"error: my_module\.py, line \d+: KeyError: 'nowhere'  \[python -m", capsys.readouterr().err)


# --- Who may import ---


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("criterion._target_=evil.X", "criterion._target_"),
        ("++task._target_=evil.X", "task._target_"),
        ("+criterion={_target_:evil.X}", "criterion"),
        ("'task.after={_target_: evil.X}'", "task.after"),
        ("--config-dir=/tmp/evil", "--config-dir"),
    ],
)
def test_a_record_imports_nothing_that_is_not_named_again(word, named):
    command = f"{COMMAND} criterion=custom seed=3 {word}"
    with pytest.raises(HiesError, match=rf"The command of the rows takes code .*give {named}=\.\.\. yourself"):
        rerun.recorded_overrides(command, {"seed"})
    assert rerun.recorded_overrides(command, {named}) == ["criterion=custom", "seed=3"]


def test_what_a_record_names_cannot_steer_the_terminal():
    with pytest.raises(HiesError, match="takes code") as error:
        rerun.recorded_overrides(f"{COMMAND} '\x1b]0;x\x07_target_=evil.X'")
    assert f"{error.value}".isprintable()
