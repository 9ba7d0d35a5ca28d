"""Files that are either whole or absent, computed once however many processes ask for them, and their checksums.

The checksums of a folder are in the file that `sha256sum -c SHA256SUMS` reads.
"""

import contextlib
import glob
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np

SUMS = "SHA256SUMS"
LONGEST_SUMS = 8 << 20  # bytes
KEY = "cache_key"  # in the arrays of the cache: the name that they were written under
CHECKPOINT = "cache_checkpoint"  # in them, too: the identity of the weights that they were computed with
Built = TypeVar("Built")
GENERATION = "generation_config.json"  # how a model writes
RECORD = "pruned_heads.json"  # what a saved model lacks
Read = TypeVar("Read")


class Outdated(ValueError):
    """A sound file of the cache that was made of something else than what is there now."""


@dataclass(frozen=True)
class WeightsThere:
    """The weights that arrays are computed with, where the name of the arrays is not made of them.

    Attributes:
        identity: a digest of them.
        changed: when one of their files changed last, in nanoseconds.
    """

    identity: str
    changed: int


def digest(value: Any, length: int = 12) -> str:
    """First hexadecimal digits of the SHA-256 of a JSON-able value; equal values give equal digests anywhere."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def safe_filename(name: str) -> str:
    """A name from a configuration as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, which takes its name only if the block ends without an exception.

    Works for a file and for a folder (the block creates either); what the block left behind is removed on failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def cached(
    path: Path,
    build: Callable[[], Built],
    write: Callable[[Path, Built], object],
    read: Callable[[Path], Read],
    fresh: bool = False,
) -> Read:
    """Read `path` if it is there, else build it once and write it; other processes wait for the one that builds.

    A file that cannot be read is made again, with a warning that names it, and one that `read` calls Outdated without
    any. What a killed process left half-written is removed. With `fresh` what is there now is made again; what another
    process makes while this one waits is not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stale = _written(path) if fresh else None
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if _written(path) not in (None, stale):
            try:
                return read(path)
            except Exception as error:  # damaged bytes raise errors of many kinds
                if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
                    raise  # the machine's, not the file's
                if not isinstance(error, Outdated):
                    warnings.warn(f"{path} cannot be read and is made again ({error}).", stacklevel=2)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_partials(path)
        with replacing(path) as temporary:
            write(temporary, build())
        return read(path)


def _written(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None


def remove_partials(path: Path) -> None:
    """Remove what processes that were killed left of `path`; for the one process that may write it."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def cached_arrays(
    path: Path, build: Callable[[], dict[str, np.ndarray]], fresh: bool = False, weights: WeightsThere | None = None
) -> dict[str, np.ndarray]:
    """`cached` for named arrays; a file that was written under another name, or of other `weights`, is made again."""
    notes = {KEY: np.array(path.stem)} | ({} if weights is None else {CHECKPOINT: np.array(weights.identity)})

    def write(place: Path, arrays: dict[str, np.ndarray]) -> None:
        write_arrays(place, arrays | notes)

    def read(place: Path) -> dict[str, np.ndarray]:
        arrays = read_arrays(place)
        if (name := str(arrays.pop(KEY, path.stem))) != path.stem:
            raise ValueError(f"it was written as {name!r}")
        made_of = arrays.pop(CHECKPOINT, None)
        if weights is not None:
            _check_made_of(weights, None if made_of is None else str(made_of), place)
        return arrays

    return cached(path, build, write, read, fresh)


def _check_made_of(weights: WeightsThere, identity: str | None, path: Path) -> None:
    """Raises Outdated where arrays are of other weights, or of nobody knows which: those without an identity.

    They are of before identities were kept, and of these weights only if these were there before them.
    """
    if identity is None and path.stat().st_mtime_ns <= weights.changed:
        raise Outdated("it may be older than the weights")
    if identity not in (None, weights.identity):
        raise Outdated(f"it was computed with the weights {identity}, not {weights.identity}")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as a compressed npz under exactly this name (numpy alone would append a suffix)."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a whole npz; nothing in it is ever unpickled."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_checksums(folder: Path, which: str = "*") -> None:
    """Record what the folder's files hold now, those alone whose names fit the pattern `which`."""
    files = sorted(file for file in folder.glob(which) if file.is_file() and file.name != SUMS)
    lines = [f"{sha256_of(file)}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: Path, which: str = "*") -> None:
    """Raises ValueError where `write_checksums` left a record, and a file has come, gone or changed since."""
    sums = folder / SUMS
    if not os.path.lexists(sums):
        return
    if not sums.is_file() or sums.stat().st_size > LONGEST_SUMS:
        raise ValueError(f"{SUMS} is no list of checksums")
    lines = sums.read_text(encoding="utf-8").splitlines()
    recorded = {name: found for found, _, name in (line.partition("  ") for line in lines)}
    present = {file.name for file in folder.glob(which) if file.is_file()}
    present = {name for name in present if name != SUMS and not name.startswith(".")}  # not .DS_Store
    for name in sorted(present | recorded.keys()):
        if name not in present or sha256_of(folder / name) != recorded.get(name):
            raise ValueError(f"{name!r} is not what {SUMS} says it was when it was written")


def unchanged_folder(folder: Path) -> str:
    """Returns the name of a folder whose files are those that were written; ValueError where they are not."""
    check_checksums(folder)
    return str(folder)


@cache
def source_of(module: str) -> str | None:
    """Returns a digest of the code that a module comes from; None for this package and for Python's own.

    It covers the module's file, or, where the module is in a package, every `.py` file of the outermost one; not what
    they import from elsewhere.
    """
    top = importlib.import_module(module.partition(".")[0])
    if top.__name__ in (__name__.partition(".")[0], *sys.stdlib_module_names):
        return None
    folders = map(Path, getattr(top, "__path__", ()))
    files = {str(file.relative_to(folder)): file for folder in folders for file in folder.rglob("*.py")}
    files |= {Path(file).name: Path(file) for file in [getattr(top, "__file__", None)] if file and not files}
    return digest([top.__name__, {name: sha256_of(file) for name, file in files.items()}])


def sources_of(*kinds: type) -> list[str]:
    """Returns for each class from outside its name and the digest of its code, that of its bases included."""
    found = {}
    for kind in kinds:
        digests = [source for base in kind.__mro__ if (source := source_of(base.__module__))]
        if digests:
            found[f"{kind.__module__}.{kind.__qualname__}"] = digest(digests)
    return [f"{name}@{source}" for name, source in found.items()]


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_weights(model: Any, folder: Path, **options: Any) -> None:
    """Calls `model.save_pretrained(folder, **options)`; everybody may then read the files whom the umask lets.

    Raises:
        OSError: a full disk, whoever noticed it.
    """
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder, **options)
    except SafetensorError as error:  # of an error of the system it keeps the text alone
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error
    probe = folder / ".umask"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for file in folder.iterdir():
        file.chmod(mode)  # safetensors gives weights to their writer alone


@contextlib.contextmanager
def locking(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a folder inside the block; a process that is killed gives it back, and it leaves no file.

    Yields:
        False where it is not held: no such folder, a file system or platform without such locks, or, without `wait`,
        another holder.
    """
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            held = True
        except (ImportError, AttributeError, OSError):
            held = False
        yield held
