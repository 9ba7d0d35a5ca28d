"""The rules of the house: who may import whom, what starts without torch, and names that mean one thing."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("hies", "experiments", "analysis")
# A room imports rooms of earlier lines, and itself; rooms of one line do not know each other.
FLOORS = (
    ("errors",),
    ("storage",),
    ("runs",),
    ("equations",),
    ("batching", "batch_size", "precision", "progress"),
    ("heads",),
    ("scoring",),
    ("training",),
    ("pruning",),
    ("efficiency", "methods"),
    ("tasks",),
    ("evaluation",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = ("torch", "transformers", "sklearn", "scipy", "pandas", "wandb", "datasets", "matplotlib")
PUBLIC = ("attention_entropy", "batches", "collect", "evaluate", "find_sites", "load_pruned", "masked", "prunable",
          "prune", "pruned_heads", "save_pruned", "select", "summary")  # fmt: skip
LONGEST = 350  # lines of a file
# What torch documents under these names: a tensor without memory, and a mode that sees every operation.
DOCUMENTED = ("torch._subclasses.fake_tensor", "torch.utils._python_dispatch", "torch.utils._pytree")
REPEATED = {"main", "load", "read_arrays"}  # names that several modules of a kind have, with one meaning


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path):
    """Every module that a file imports, wherever in it, with its names."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield from ((node.module, alias.name) for alias in node.names)


def room_of(module, name=""):
    """The room of `hies` that an import reaches into; None for the package itself, whose names are lazy."""
    words = module.split(".")
    if words[0] != "hies":
        return None
    return words[1] if len(words) > 1 else (name if name in FLOOR else None)


@pytest.mark.parametrize("path", files("hies"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_stands_below_it(path):
    own = path.relative_to(ROOT / "hies").parts[0].removesuffix(".py")
    for module, name in imports(path):
        assert module.split(".")[0] not in ("experiments", "analysis"), f"{module} in {path}"
        room = room_of(module, name)
        if own == "__init__" or room is None:
            continue
        assert room == own or FLOOR[room] < FLOOR[own], f"{own} imports {module}"


def test_analysis_reads_runs_and_errors_alone():
    for path in files("analysis"):
        for module, name in imports(path):
            assert module.split(".")[0] not in ("experiments", *HEAVY[:2]), f"{module} in {path}"
            assert module.split(".")[0] != "hies" or room_of(module, name) in ("runs", "errors"), f"{module} in {path}"


def test_nobody_imports_analysis():
    for path in files("experiments", "hydra_plugins"):
        for module, _ in imports(path):
            assert module.split(".")[0] != "analysis", f"{module} in {path}"


LIGHT = (
    "hies", "hies.errors", "hies.runs",
    *(f"hies.runs.{name}" for name in ("files", "folders", "grid", "pack", "quality", "schema", "wandb")),
    "hies.methods", "hies.tasks", "hies.evaluation.models",
)  # fmt: skip


def test_what_a_row_is_and_what_declares_knobs_start_without_the_heavy_packages():
    code = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module(name)
    print(name, *sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*LIGHT]


def test_no_module_has_the_name_of_a_public_function():
    names = [part for path in files("hies") for part in path.relative_to(ROOT).with_suffix("").parts]
    assert not {*names} & {*PUBLIC}


def test_files_stay_short():
    long = {str(path.relative_to(ROOT)): n for path in files(*CODE) if (n := path.read_text().count("\n")) > LONGEST}
    assert not long


def test_nothing_private_of_other_packages_is_imported():
    for path in files(*CODE, "hydra_plugins", "benchmarks"):
        for module, name in imports(path):
            if module.split(".")[0] not in (*CODE, "__future__", "_typeshed") and module not in DOCUMENTED:
                private = [part for part in (*module.split("."), name) if part.startswith("_") and part != "__init__"]
                assert not private, f"{module} {name} in {path}"


def test_a_public_name_means_one_thing():
    homes = defaultdict(set)
    for path in files(*CODE):
        for node in tree(path).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:
                homes[name].add(str(path.relative_to(ROOT)))
    twice = {name: sorted(at) for name, at in homes.items() if len(at) > 1 and name[0] != "_" and name not in REPEATED}
    assert not twice


def test_tests_share_what_is_in_support_alone():
    import_of_a_test = re.compile(r"^\s*(?:from|import) (?:conftest|test_\w+)\b", re.MULTILINE)
    for path in files("tests"):
        assert not import_of_a_test.search(path.read_text(encoding="utf-8")), path  # parsing them all takes seconds
