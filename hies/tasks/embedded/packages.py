"""Docstrings of installed packages as a source of examples: the same versions give the same data on every machine."""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from hies.errors import ParameterError

Piece = TypeVar("Piece")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # import name -> name on the package index, where they differ


def check_libraries(libraries: Sequence[str], fewest: int) -> None:
    """Raises ParameterError where there are too few libraries, or one of them twice."""
    if len(set(libraries)) < max(fewest, len(libraries)):
        raise ParameterError("libraries", list(libraries), f"it takes at least {fewest}, each once")


def check_sizes(task: Any, *names: str) -> None:
    """Raises ParameterError where one of a task's sizes is below 1."""
    for name in names:
        if (size := getattr(task, name)) < 1:
            raise ParameterError(name, size, "it must be at least 1")


def installed_versions(libraries: Sequence[str]) -> list[list[str]]:
    """Returns each library with its installed version; raises ParameterError where one is not installed."""
    return [[library, _version(library)] for library in libraries]


def read_packages(libraries: Sequence[str], read: Callable[[Path], list[Piece]]) -> dict[str, list[Piece]]:
    """Returns what `read` finds below the folder of each library, two of them at the same time."""
    folders = [package_folder(library) for library in libraries]
    if None in folders:
        library = libraries[folders.index(None)]
        raise ParameterError("libraries", library, "it takes names of installed packages")
    with ProcessPoolExecutor(min(2, len(folders))) as pool:
        parsed = pool.map(read, folders)
        bar = tqdm(parsed, desc="reading docstrings", total=len(folders), unit="library", disable=None)
        return dict(zip(libraries, bar, strict=True))


def draw_split(shares: Mapping[str, float], *words: str) -> str:
    """Returns the split that these words fall into, by the share of each split; it depends on nothing else."""
    position = draw_number(*words)
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return "report"


def draw_number(*words: str) -> float:
    """Returns a number in [0, 1) that depends on the words alone."""
    return int(hashlib.sha256("\n".join(words).encode()).hexdigest()[:12], 16) / 16**12


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON-able value, compressed; equal values give equal files."""
    path.write_bytes(gzip.compress(json.dumps(value).encode(), mtime=0))


def read_json(path: Path) -> Any:
    """Returns what `write_json` wrote."""
    return json.loads(gzip.decompress(path.read_bytes()))


def package_folder(name: str) -> Path | None:
    """Returns where an installed package lies, found without importing it; None where it is no package."""
    spec = importlib.util.find_spec(name)
    locations = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(locations))) if locations else None


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(library, library))
    except importlib.metadata.PackageNotFoundError:
        raise ParameterError("libraries", library, "it is not installed; pip install it") from None
