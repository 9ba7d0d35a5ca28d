"""Where the runs of an experiment lie: a pair of files for each run, or the packed folder that `analysis.pack` makes.

This file alone knows which of the two it is. A run is spoken of by the path of its row file,
`<folder>/<run id>.jsonl`, whether that file is there or packed.
"""

import gzip
import json
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

ROWS, ARRAYS, GRID = "rows.jsonl.gz", "arrays.npz", "grid.json"
SCORES, ANSWERS = ("scores", "his", "ae"), ("predictions", "labels")


class BadFile(Exception):
    """A file that is there and cannot be read; the message is its name."""


def is_packed(folder: Path) -> bool:
    """Whether the runs of this folder lie in one file."""
    return (folder / ROWS).exists()


def has_rows(folder: Path) -> bool:
    """Whether there is any run, packed or not."""
    return is_packed(folder) or bool(_row_files(folder))


def unread(folder: Path) -> int:
    """How many single row files lie beside packed ones, which alone are read."""
    return len(_row_files(folder)) if is_packed(folder) else 0


def texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """The row file of every run and what is in it: one row a line, in the order of the run ids.

    Raises:
        BadFile: a packed folder whose rows cannot be read.
    """
    if not is_packed(folder):
        for path in _row_files(folder):
            yield path, path.read_text(encoding="utf-8", errors="replace")
        return
    lines: dict[str, list[str]] = {}
    try:
        for line in gzip.decompress((folder / ROWS).read_bytes()).decode().splitlines():
            lines.setdefault(json.loads(line)["run_id"], []).append(line)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        raise BadFile(str(folder / ROWS)) from None
    for run_id, rows in lines.items():
        yield folder / f"{run_id}.jsonl", "\n".join(rows)


def read_arrays(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a run by the path of its row file; `names`: only those of them that are there.

    Scores are float32 and predictions of the smallest type that holds them, as in a pack: whatever is made of them is
    the same whether the run was packed or not.

    Raises:
        FileNotFoundError: the run has no arrays.
        BadFile: its arrays cannot be read.
    """
    packed = is_packed(path.parent)
    file = path.parent / ARRAYS if packed else path.with_suffix(".npz")
    try:
        found = _read_packed(file, path.stem, names) if packed else _read_single(file, names)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
        raise BadFile(str(file)) from None
    return {name: narrowed(name, array) for name, array in found.items()}


def narrowed(name: str, array: np.ndarray) -> np.ndarray:
    """An array as a pack holds it."""
    if name in SCORES:
        return array.astype(np.float32)
    if name not in ANSWERS:
        return array
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    if array.dtype.kind not in "iub":  # answers that are texts
        return array
    ends = (array.min(), array.max()) if array.size else (0, 0)
    return array.astype(np.result_type(*(np.min_scalar_type(end) for end in ends)))


def _row_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith("."))


def _read_single(path: Path, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return _members(archive, "", [member.removesuffix(".npy") for member in archive.namelist()], names)


def _read_packed(path: Path, run_id: str, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    archive, runs = _opened(path, path.stat().st_mtime_ns)
    if run_id not in runs:
        raise FileNotFoundError(path)
    return _members(archive, f"{run_id}/", runs[run_id], names)


@lru_cache(maxsize=8)
def _opened(path: Path, changed: int) -> tuple[zipfile.ZipFile, dict[str, list[str]]]:
    """A packed file, which stays open because it is asked once for every run, and the names of each run's arrays.

    changed: when; a file that was written anew is opened anew.
    """
    archive = zipfile.ZipFile(path)
    runs: dict[str, list[str]] = {}
    for member in archive.namelist():
        run_id, _, name = member.removesuffix(".npy").rpartition("/")
        runs.setdefault(run_id, []).append(name)
    return archive, runs


def _members(
    archive: zipfile.ZipFile, prefix: str, there: list[str], names: tuple[str, ...] | None
) -> dict[str, np.ndarray]:
    """numpy's own reader would look through all names of the archive for each of them."""
    arrays = {}
    for name in sorted(there):
        if names is None or name in names:
            with archive.open(f"{prefix}{name}.npy") as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays
