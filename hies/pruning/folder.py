"""The folder of one pruned model: a record that names its files and what they hold, and how a model replaces another.

A writer holds the lock of the folder. It prepares the files in `.saving-*` and renames that to `.saved`: from here on
the new model counts. Then it moves the files to their names, the record last. A reader takes a file from `.saved` while
it is there, so at every moment, and whenever the writer is killed, it finds the files of one model.
"""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from hies.errors import HiesError
from hies.heads.sites import Removed
from hies.pruning.counts import COUNTS
from hies.storage import GENERATION, RECORD, SUMS, check_checksums, digest, locking, sha256_of

RECORD_FORMAT = 1
CONFIG = "config.json"
SAVING = ".saving-"
SAVED = ".saved"
LONGEST_JSON = 8 << 20  # bytes; what a parser makes of more could fill the memory


class Files:
    """The files of a saved model, by name; a local folder, or a repository on the Hub.

    Attributes:
        source: the folder or repository.
        where: options that say where in it, see `HUB_OPTIONS` of `hies.pruning.files`.
    """

    def __init__(self, source: str | Path, where: Mapping[str, Any]) -> None:
        self.source, self.where = str(source), where
        self.folder = Path(source) / (where.get("subfolder") or "")

    def __getitem__(self, name: str) -> Path:
        """Returns where a file is; OSError where it is not, or no file."""
        moving = self.folder / SAVED
        if not moving.is_symlink() and (moving / name).is_file():
            return moving / name
        local = self.folder.is_dir()
        path = self.folder / name if local else cached_file(self.source, name, **self.where)
        if path is None or not Path(path).is_file():
            raise FileNotFoundError(f"it has no file {name}")
        return Path(path)

    def __contains__(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(self[name])
        return False

    def json(self, name: str) -> Any:
        """Returns what a JSON file holds; ValueError where it cannot be read."""
        return _read_json(self[name])

    def state(self) -> dict[str, tuple[int, ...]]:
        """Returns what differs as soon as a file of a local folder is written, moved or replaced."""
        found: dict[str, tuple[int, ...]] = {}
        for place in (self.folder, self.folder / SAVED):
            with contextlib.suppress(OSError):
                for path in place.iterdir():
                    with contextlib.suppress(OSError):
                        status = path.stat()
                        times = status.st_mtime_ns, status.st_ctime_ns
                        found[str(path)] = (status.st_ino, status.st_size, *times)
        return found


def _read_json(path: Path) -> Any:
    with path.open("rb") as file:
        content = file.read(LONGEST_JSON + 1)
    if len(content) > LONGEST_JSON:
        raise ValueError(f"{path.name} is longer than {LONGEST_JSON >> 20} MB")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


def write_record(place: Path, model_class: str, config: dict[str, Any], removed: Removed) -> None:
    """Writes the record of all files in a folder: which heads are gone, and the SHA-256 of each file."""
    sums = {file.name: sha256_of(file) for file in sorted(place.iterdir())}
    record = {"format": RECORD_FORMAT, "model_class": model_class, "config": config, "removed": removed, "files": sums}
    record["digest"] = record_digest(record)
    (place / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def record_digest(record: dict[str, Any]) -> str:
    """Returns what differs for a record that was edited or cut short, and for a change of any file that it names."""
    return digest({name: value for name, value in record.items() if name != "digest"})


def read_record(files: Files) -> dict[str, Any]:
    """Returns the record: `model_class`, `config`, `removed` and `files` (names of files), every value of its kind.

    Raises:
        HiesError: none, one that cannot be read, or files that are not those that it was written with.
    """
    if RECORD not in files:
        raise HiesError(
            f"{files.source} has no {RECORD}, so it is no model saved by hies.save_pruned, which alone saves a pruned "
            "one; from_pretrained loads a model with all its heads."
        )
    try:
        return _checked(files.json(RECORD))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HiesError(f"{RECORD} in {files.source} cannot be read: {error}") from error


def _checked(record: Any) -> dict[str, Any]:
    """Returns the record if every value is of the kind that it should be."""
    if record["format"] != RECORD_FORMAT:
        raise ValueError(f"its format is {record['format']!r}, this version reads {RECORD_FORMAT}")
    if record["digest"] != record_digest(record):
        raise ValueError("it was changed after it was written")
    removed: Removed = {str(site): [int(head) for head in heads] for site, heads in record["removed"].items()}
    config = {name: value for name, value in record["config"].items() if name.split(".")[-1] in COUNTS}
    if any(value is not None and type(value) is not int for value in config.values()):
        raise ValueError("its config holds a value that is no number")
    sums = record.get("files")
    for name in sums or ():
        if name != Path(name).name or "\\" in name or name.startswith("."):
            raise ValueError(f"it names the file {name!r}, which is no plain name")
    return {"model_class": str(record["model_class"]), "config": config, "removed": removed, "files": sums}


def weights_of(files: Files, record: dict[str, Any]) -> list[str]:
    """Returns the names of the safetensors, those alone that the record or, before records did, the index names."""
    if record["files"] is not None:
        return sorted(name for name in record["files"] if name.endswith(".safetensors"))
    if "model.safetensors" in files:
        return ["model.safetensors"]
    if "model.safetensors.index.json" not in files:
        return []
    names = {str(name) for name in files.json("model.safetensors.index.json")["weight_map"].values()}
    if unfit := sorted(name for name in names if name != Path(name).name or not name.endswith(".safetensors")):
        raise ValueError(f"its index names {unfit[0]!r}, which is no safetensors file in it")
    return sorted(names)


def check_small_files(files: Files, record: dict[str, Any]) -> None:
    """Raises HiesError for a file beside the weights that is not what it was when the record was written."""
    for name in sorted((record["files"] or {}).keys() - set(weights_of(files, record))):
        _check_file(files, record, name, LONGEST_JSON)


def check_weights(files: Files, record: dict[str, Any]) -> None:
    """Raises HiesError for weights that are not what they were when the record was written.

    Folders that were saved before records named files have `SHA256SUMS` of the weights.
    """
    if record["files"] is None:
        try:
            check_checksums(files.folder, "*.safetensors")
        except ValueError as error:
            raise HiesError(f"In {files.source} {error}; get it again, or remove {SUMS} if it was meant.") from error
        return
    for name in weights_of(files, record):
        _check_file(files, record, name)


def _check_file(files: Files, record: dict[str, Any], name: str, longest: float = math.inf) -> None:
    is_short = name in files and files[name].stat().st_size <= longest
    if not is_short or sha256_of(files[name]) != record["files"][name]:
        raise HiesError(
            f"{name} in {files.source} is not what {RECORD} says it was when it was written; get it again "
            "(hies.save_pruned saves a model that was changed on purpose)."
        )


@contextlib.contextmanager
def replacing_model(folder: Path) -> Iterator[Path]:
    """Yields an empty folder; what the block wrote there, a record with it, takes the place of what `folder` held.

    Writers take turns. Without the end of the block, whatever stopped it, `folder` holds what it held before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locking(folder):
        _recover(folder)
        place = folder / f"{SAVING}{os.getpid()}"
        place.mkdir()
        try:
            yield place
            place.replace(folder / SAVED)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        _publish(folder)


def finish_interrupted(folder: Path) -> None:
    """Ends what a killed writer began, if it can be done here and nobody is writing."""
    if any(place.is_dir() for place in (folder / SAVED, *folder.glob(f"{SAVING}*"))):
        with contextlib.suppress(OSError, ValueError), locking(folder, wait=False) as held:
            if held:
                _recover(folder)


def _recover(folder: Path) -> None:
    for place in folder.glob(f"{SAVING}*"):
        shutil.rmtree(place, ignore_errors=True)  # a link is left: what it leads to is not ours
    _publish(folder)


def _publish(folder: Path) -> None:
    """Moves the files of `.saved` to their names and removes the earlier model's; it may be stopped anywhere."""
    saved = folder / SAVED
    if saved.is_symlink() or not saved.is_dir():
        return
    if listed := _files_of(saved / RECORD):  # else all of them are moved, or were not written here
        for old in (*folder.glob("model*.safetensors*"), folder / GENERATION, folder / SUMS):
            if old.name not in listed:
                old.unlink(missing_ok=True)
        for file in sorted(saved.iterdir(), key=lambda file: file.name == RECORD):  # the record last
            file.replace(folder / file.name)
    shutil.rmtree(saved)


def _files_of(record: Path) -> set[str]:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        if record.is_file():
            return set(_read_json(record)["files"])
    return set()
