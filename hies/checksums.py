"""Checksums of a folder's files, in the file that `sha256sum -c SHA256SUMS` reads."""

import hashlib
from pathlib import Path

SUMS = "SHA256SUMS"


def write_checksums(folder: Path, which: str = "*") -> None:
    """Record what the folder's files hold now, those alone whose names fit the pattern `which`."""
    files = sorted(file for file in folder.glob(which) if file.is_file() and file.name != SUMS)
    lines = [f"{_sum(file)}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: Path) -> None:
    """Compare with what was recorded; a folder without a record passes.

    Raises:
        ValueError: a file that is missing or was changed, by name.
    """
    sums = folder / SUMS
    if not sums.exists():
        return
    for line in sums.read_text(encoding="utf-8").splitlines():
        found, _, name = line.partition("  ")
        if name != Path(name).name or not (folder / name).is_file() or _sum(folder / name) != found:
            raise ValueError(f"{name!r} is not what {SUMS} says it was when it was written")


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
