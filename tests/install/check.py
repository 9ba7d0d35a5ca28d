"""Builds the wheel, installs it in fresh environments without the benchmark's packages, and prunes models there.

It needs the package index. `make test-install` takes three versions of transformers: that which every other test runs
with, the oldest and the newest that pyproject.toml declares. `make test-versions` takes all of its minor versions, and
writes docs/versions.json. Others may be named: `python tests/install/check.py 5.14.1 5.10.*`. torch is the version of
constraints.txt.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "versions.json"
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def declared(package: str) -> str:
    """Returns the range of versions of a dependency in pyproject.toml, such as `>=5.15,<5.25`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = (line.removeprefix(package) for line in project["dependencies"] if re.match(rf"{package}\W", line))
    return found


def pinned(package: str) -> str:
    """Returns the version of a package in constraints.txt, such as `==5.23.0`."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.search(rf"^{package}(==\S+)$", text, flags=re.MULTILINE).group(1)


def oldest(versions: str) -> str:
    """Returns the lower end of a range, such as `==5.15`."""
    return "==" + re.search(r">=([\d.]+)", versions).group(1)


def minors(versions: str) -> list[str]:
    """Returns every minor version of a range such as `>=5.15,<5.25`, as `==5.15.*`."""
    major, first, beyond = map(int, re.search(r">=(\d+)\.(\d+),<\d+\.(\d+)", versions).groups())
    return [f"=={major}.{minor}.*" for minor in range(first, beyond)]


def run(*command: str | Path, folder: Path) -> None:
    """Runs a command outside the clone, so that nothing of it is imported by accident."""
    if subprocess.run([str(word) for word in command], cwd=folder, check=False).returncode:
        sys.exit(f"error: {' '.join(map(str, command[1:]))} failed, for the reason above; nothing was written.")


def build_wheel(folder: Path) -> Path:
    """Returns the wheel of this clone; it must hold `hies` and what describes it, and nothing else."""
    source = (
        folder / "source"
    )  # a copy, since setuptools leaves a folder `build` and packs what older builds left there
    source.mkdir()
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    for package in ROOT.glob("[!.]*/"):  # all folders, so that what must stay out of the wheel could come into it
        if any(package.glob("*.py")):
            shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, source, folder=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"hies", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}, f"the wheel holds {sorted(tops)}"
    assert "hies/tasks/glue_halves.json" in names
    return wheel


def make_environment(folder: Path, beneath: Path | None = None) -> Path:
    """Creates a virtual environment, maybe one that sees the packages of another, and returns its Python."""
    venv.create(folder, with_pip=True)
    if beneath is not None:  # torch is installed once
        (mine,), (theirs,) = (list(where.glob("[Ll]ib/**/site-packages")) for where in (folder, beneath))
        (mine / "beneath.pth").write_text(f"{theirs}\n")
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def holds(transformers: str, folder: Path, beneath: Path) -> dict[str, dict[str, str]]:
    """Returns {version: {family: `yes` or what is wrong}} of one version, in an environment of its own."""
    python, found = make_environment(folder, beneath), folder / "found.json"
    run(python, *PIP, "install", f"transformers{transformers}", folder=folder)
    subprocess.run([python, ROOT / "tests" / "install" / "loop.py", found], cwd=folder, check=False)
    return json.loads(found.read_text()) if found.exists() else {transformers: {"hies": "it cannot be imported"}}


def main() -> None:
    """Runs the loop with each version of transformers; fails if it does not hold for all families of each."""
    versions = declared("transformers")
    every = sys.argv[1:] == ["--all"]
    named = [f"=={version}" for version in sys.argv[1:]] or [pinned("transformers"), oldest(versions), versions]
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        base = make_environment(folder / "base")
        run(base, *PIP, "install", build_wheel(folder), f"torch{pinned('torch')}", folder=folder)
        for number, transformers in enumerate(minors(versions) if every else named):
            found |= holds(transformers, folder / str(number), folder / "base")
            shutil.rmtree(folder / str(number))
    if every:
        said = {"torch": pinned("torch")[2:], "python": platform.python_version(), "transformers": found}
        PAGE.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(said != "yes" for families in found.values() for said in families.values()))


if __name__ == "__main__":
    main()
