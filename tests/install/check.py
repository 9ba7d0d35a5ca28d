"""Builds the wheel, installs it in fresh environments without the benchmark's packages, and prunes models there.

Run by `make test-install`; it needs the package index. transformers comes three times: the version that every other
test runs with, the oldest and the newest that pyproject.toml declares. torch is the version of constraints.txt.
"""

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


def run(*command: str | Path, folder: Path) -> None:
    """Runs a command outside the clone, so that nothing of it is imported by accident."""
    subprocess.run([str(word) for word in command], cwd=folder, check=True)


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


def main() -> None:
    """Runs the loop with three versions of transformers, in one environment whose transformers is exchanged."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        versions = declared("transformers")
        for transformers in (pinned("transformers"), oldest(versions), versions):
            wanted = (wheel, f"torch{pinned('torch')}", f"transformers{transformers}")
            run(python, *PIP, "install", "--upgrade", *wanted, folder=folder)
            run(python, ROOT / "tests" / "install" / "loop.py", folder=folder)


if __name__ == "__main__":
    main()
