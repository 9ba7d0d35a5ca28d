"""Checksums of a folder's weights, in the file that `sha256sum -c SHA256SUMS` reads."""

import hashlib
from pathlib import Path

SUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Record what the folder's safetensors hold now."""
    lines = [f"{_sum(file)}  {file.name}\n" for file in sorted(folder.glob("*.safetensors"))]
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
