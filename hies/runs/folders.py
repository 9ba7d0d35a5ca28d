"""Where the runs of an experiment lie: a pair of files for each run, or the packed folder that `hies.runs.pack` makes.

This file alone knows which of the two it is. A run is spoken of by the path of its row file,
`<folder>/<run id>.jsonl`, whether that file is there or packed.
"""

import gzip
import io
import lzma
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from hies.errors import RowsWarning
from hies.runs.schema import LOSSES

PACKED_ROWS, PACKED_ARRAYS, GRID = "rows.jsonl.gz", "arrays.npz.xz", "grid.json"
EFFICIENCY, SCORING = "efficiency", "scoring"  # folders of results with rows of another kind
NO_EXPERIMENTS = ("wandb", "figures", "tables", EFFICIENCY, SCORING)  # folders of results that hold no runs
SCORES, ANSWERS, OWNER = ("scores", "his", "ae"), ("predictions", "labels"), "run_id"
# The kinds of values, by numpy's letters, that an array may hold; one of another name may hold any but objects.
ARRAY_KINDS = {**dict.fromkeys((*SCORES, *LOSSES, "ratios"), "iuf"), "heads": "iu", "sites": "U", OWNER: "U"}
# What a file may unpack to: this, and so many times its size. Rows pack to a thirtieth; constant predictions to less,
# and are small.
MOST_BYTES, MOST_TIMES = 2**28, 200
NAME = re.compile(r"\w[\w.-]*")  # of a file, and of nothing outside its folder
RUN_ID = re.compile(r'"run_id": ?"([^"]*)"')


class BadFile(Exception):
    """A file that is there and cannot be used."""

    def __init__(self, path: Path, what: str = "cannot be read") -> None:
        super().__init__(f"{path} {what}")
        self.name = path.name
        self.what = what  # is wrong with it, in words that follow its name


def warn_of_rows(message: str) -> None:
    """Warns of what is left out, in a sentence."""
    warnings.warn(message, RowsWarning, stacklevel=3)


def is_name(text: object) -> bool:
    """Returns whether this can be the name of a run or an experiment, and so of a file in the folder that is read."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def is_packed(folder: Path) -> bool:
    """Returns whether the runs of this folder lie in one file."""
    return (folder / PACKED_ROWS).exists()


def has_rows(folder: Path) -> bool:
    """Returns whether there is any run, packed or not."""
    return is_packed(folder) or next(_row_files(folder), None) is not None


def unread(folder: Path) -> int:
    """Returns how many single row files lie beside packed ones, which alone are read."""
    return len([*_row_files(folder)]) if is_packed(folder) else 0


def texts(folder: Path, only: Collection[str] | None = None) -> Iterator[tuple[Path, str]]:
    """Yields the row file of every run, or of the run ids `only`, and what is in it: one row a line, in their order.

    A file that cannot be read, and a packed run with a name that is no run id, are left out with a RowsWarning. Bytes
    that are no UTF-8 become replacement characters.

    Raises:
        BadFile: a packed folder whose rows cannot be read.
    """
    if only is not None and not only:
        return
    if is_packed(folder):
        yield from ((path, text) for path, text in _packed_texts(folder) if only is None or path.stem in only)
        return
    for name in sorted(_row_files(folder)):
        path = folder / name
        if only is not None and path.stem not in only:
            continue
        try:
            yield path, path.read_bytes().decode(errors="replace")
        except OSError as problem:
            warn_of_rows(f"{path} cannot be read ({problem.strerror}) and is left out.")


def read_arrays(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a run.

    Scores are float32 and predictions of the smallest type that holds them, as in a pack: whatever is made of them is
    the same whether the run was packed or not.

    Args:
        path: its row file.
        names: read only these, as far as they are there; None reads all.

    Raises:
        FileNotFoundError: the run has no arrays.
        BadFile: its arrays cannot be read, or were written for another run.
    """
    file = arrays_file(path)
    packed = file.name == PACKED_ARRAYS
    wanted = None if names is None else (*names, OWNER)
    try:
        arrays = _read_packed(file, path.stem, wanted) if packed else read_npz(file, wanted)
        arrays = {name: narrowed(name, _checked(name, array)) for name, array in arrays.items()}
    except (FileNotFoundError, BadFile):
        raise
    except Exception:  # damaged bytes raise errors of many kinds
        raise BadFile(file) from None
    if str(arrays.pop(OWNER, path.stem)) != path.stem:
        raise BadFile(file, "belongs to another run")
    return arrays


def arrays_file(path: Path) -> Path:
    """Returns the file that has the arrays of a run, given its row file."""
    return path.parent / PACKED_ARRAYS if is_packed(path.parent) else path.with_suffix(".npz")


def narrowed(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array as a pack holds it."""
    if name in SCORES or (name in ANSWERS and array.dtype.kind == "f"):
        return array.astype(np.float32)
    if name not in ANSWERS or array.dtype.kind not in "iub":  # answers may be texts
        return array
    ends = (array.min(), array.max()) if array.size else (0, 0)
    return array.astype(np.result_type(*(np.min_scalar_type(end) for end in ends)))


def _packed_texts(folder: Path) -> Iterator[tuple[Path, str]]:
    lines: dict[str, list[str]] = {}
    left = _most_bytes(folder / PACKED_ROWS)
    try:
        with gzip.open(folder / PACKED_ROWS, "rt", encoding="utf-8") as file:
            while line := file.readline(left + 1):
                if (left := left - len(line)) < 0:
                    raise _too_large(folder / PACKED_ROWS)
                # Whoever parses the line sees whether this is what it says; here it need not be parsed.
                (run_id,) = RUN_ID.search(line).groups()  # type: ignore[union-attr]
                lines.setdefault(run_id, []).append(line)
    except (OSError, EOFError, ValueError, AttributeError, MemoryError, zlib.error):
        raise BadFile(folder / PACKED_ROWS) from None
    for run_id, rows in lines.items():
        if is_name(run_id):
            yield folder / f"{run_id}.jsonl", "".join(rows)
        else:
            warn_of_rows(f"{folder / PACKED_ROWS} holds a run {run_id!r}, which is no run id and is left out.")


def _row_files(folder: Path) -> Iterator[str]:
    """The names of a folder's row files, which may be many: no path is made of them, no file is looked at."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (one.name for one in entries if one.name.endswith(".jsonl") and not one.name.startswith("."))


def _most_bytes(file: Path) -> int:
    """How many bytes a compressed file may unpack to; a file from elsewhere may have been made to fill the memory."""
    return MOST_BYTES + MOST_TIMES * file.stat().st_size


def _too_large(file: Path) -> BadFile:
    return BadFile(file, f"unpacks to more than {_most_bytes(file) / 2**20:,.0f} MiB, which is more than is read")


def read_npz(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz by name, or those of `names`; nothing is unpickled.

    Raises:
        BadFile: it unpacks to more than is read. Damaged bytes raise errors of many kinds.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.removesuffix(".npy"): member for member in archive.namelist()}
        return _read_members(archive, path, members, names)


def _read_members(
    archive: zipfile.ZipFile, path: Path, members: dict[str, str], names: tuple[str, ...] | None
) -> dict[str, np.ndarray]:
    """The arrays of these members of an archive, {name: member}, as far as they are among `names`."""
    wanted = {name: member for name, member in sorted(members.items()) if names is None or name in names}
    if sum(archive.getinfo(member).file_size for member in wanted.values()) > _most_bytes(path):
        raise _too_large(path)
    arrays = {}
    for name, member in wanted.items():
        # numpy's own reader would look through all names of the archive for each of them.
        with archive.open(member) as file:
            arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in ARRAY_KINDS.get(name, "biufU") or (name == OWNER and array.ndim):
        raise ValueError(f"{name} is of type {array.dtype}")
    return array


def _read_packed(path: Path, run_id: str, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    try:
        opened = _opened(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        if (older := path.with_suffix("")).exists():
            raise BadFile(older, "is of a pack that an earlier version made; pack the runs again") from None
        raise
    if isinstance(opened, BadFile):
        raise opened
    archive, runs = opened
    if run_id not in runs:
        raise FileNotFoundError(path)
    return _read_members(archive, path, {name: f"{run_id}/{name}.npy" for name in runs[run_id]}, names)


@lru_cache(maxsize=8)
def _opened(path: Path, changed: int) -> tuple[zipfile.ZipFile, dict[str, list[str]]] | BadFile:
    """A packed file, which stays open because it is read once for every run, and the names of each run's arrays.

    `changed` is when it was written: a new file is opened anew. One that cannot be used is unpacked once, too.
    """
    try:
        with lzma.open(path) as file:
            content = file.read(_most_bytes(path) + 1)
        if len(content) > _most_bytes(path):
            return _too_large(path)
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (OSError, EOFError, ValueError, MemoryError, lzma.LZMAError, zipfile.BadZipFile):
        return BadFile(path)
    runs: dict[str, list[str]] = {}
    for member in archive.namelist():
        run_id, _, name = member.removesuffix(".npy").rpartition("/")
        runs.setdefault(run_id, []).append(name)
    return archive, runs
