"""One split of a data set of the Hugging Face Hub, read from its parquet files without those of the other splits.

Data sets of images are large; `hies.tasks.hub` would download and read all of their splits.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import huggingface_hub
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hies.errors import HiesError
from hies.storage import digest


def read(
    repository: str, split: str, columns: Sequence[str], data_root: Path | None, first: int | None = None
) -> pd.DataFrame:
    """The rows of a split in the order of its files; images are dicts that hold their encoded `bytes`.

    first: no more rows than so many are needed; files after them are not read.

    Raises:
        HiesError: the split is not to be had, cannot be read, or lacks a column.
    """
    paths = files(repository, split, data_root)
    if not paths:
        raise HiesError(f"The data set {repository} is here, but has no parquet files of its split {split!r}.")
    try:
        names = pq.read_schema(paths[0]).names
        if missing := [column for column in columns if column not in names]:
            raise HiesError(
                f"The split {split!r} of {repository} has the columns {', '.join(names)}, but {', '.join(missing)} is "
                "read from it; give a copy with these columns in data_root."
            )
        parts: list[pd.DataFrame] = []
        for path in paths:
            if first is None or sum(map(len, parts)) < first:
                parts.append(pd.read_parquet(path, columns=list(columns)))
        return pd.concat(parts, ignore_index=True)[:first]
    except (OSError, pa.ArrowException) as error:
        raise HiesError(f"The split {split!r} of {repository} cannot be read from {paths[0].parent}.") from error


@cache
def identity(repository: str, split: str, data_root: Path | None) -> str:
    """A digest of the files of a split: equal wherever they lie, different as soon as one value is."""
    hashed = []
    for path in files(repository, split, data_root):
        with path.open("rb") as stream:
            hashed.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digest(hashed)


@cache
def files(repository: str, split: str, data_root: Path | None) -> list[Path]:
    """The parquet files of a split in order, from `data_root`/`repository` if it is there, else from the Hub.

    None are found where the data set has no such split.

    Raises:
        HiesError: the data set is not to be had; the sentence says how to get it.
    """
    local = data_root / repository if data_root is not None else None
    folder = local if local is not None and local.is_dir() else _downloaded(repository, split)
    return sorted(folder.rglob(f"{split}-*.parquet"))


def _downloaded(repository: str, split: str) -> Path:
    names = f"{split}-*.parquet"
    try:
        found = huggingface_hub.snapshot_download(repository, repo_type="dataset", allow_patterns=[names, f"*/{names}"])
    except Exception as error:  # huggingface_hub raises whatever its network layer does
        raise HiesError(
            f"The data set {repository} is not here: data_root does not hold it and the Hugging Face Hub does not "
            f"answer; set data_root (or the environment's HIES_DATA) to a folder with a copy in {repository}/, or "
            "connect to the Hub."
        ) from error
    return Path(found)
