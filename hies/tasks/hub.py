"""Data sets of the Hugging Face Hub, or local copies of them in the same layout.

Tables are read whole by `datasets`; of data sets of images, which are large, one split alone is read from its parquet
files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hies.errors import HiesError, ParameterError, brief
from hies.storage import digest, sha256_of

if TYPE_CHECKING:
    import pandas as pd

Frames = dict[str, "pd.DataFrame"]  # split as the data set names it -> its rows


@cache
def frames(repository: str, config: str | None, data_root: Path | None, options: str = "{}") -> Frames:
    """Returns the splits of one configuration, from `data_root`/`repository` if that folder is there, else the Hub's.

    `options` are further ones of `datasets.load_dataset`, as JSON: its `data_files` are read where they are.

    Raises:
        HiesError: neither can be read; the sentence says how to get either.
    """
    import datasets

    source, more = _local_copy(repository, data_root), json.loads(options)
    try:
        # Of a local folder nothing is remembered: datasets would take its later states for the first.
        with tempfile.TemporaryDirectory() as forgotten, no_progress_bars():
            place = forgotten if source or "data_files" in more else None
            loaded = datasets.load_dataset(str(source or repository), config, cache_dir=place, **more)
            return {name: _frame(split) for name, split in loaded.items()}
    except Exception as error:  # datasets raises whatever its network or file layer does
        if source:
            raise HiesError(
                f"data_root={data_root} holds {repository}, but its configuration {config!r} cannot be read from there."
            ) from error
        if files := more.get("data_files"):
            raise HiesError(f"{files} cannot be read as {repository} by datasets ({brief(error)}).") from error
        raise HiesError(_how_to_get(repository, data_root)) from error


def _frame(split: Any) -> pd.DataFrame:
    """Returns the rows of a split; `attrs` have the names of classes that stand as numbers in a column, by column."""
    rows = split.to_pandas()
    rows.attrs = {name: feature.names for name, feature in split.features.items() if hasattr(feature, "names")}
    return rows


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hides the progress bars of `datasets` inside the block."""
    from datasets.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@cache
def identity(repository: str, config: str, data_root: Path | None, splits: tuple[str, ...]) -> str:
    """Returns a digest of what these splits contain: equal wherever the files lie, different as soon as a value is."""
    loaded = frames(repository, config, data_root)
    return digest([[name, _content(loaded[name])] for name in splits])


def _content(rows: pd.DataFrame) -> str:
    import pandas as pd

    hashes = pd.util.hash_pandas_object(rows[sorted(rows.columns)], index=False)
    return hashlib.sha256(hashes.to_numpy().tobytes()).hexdigest()


def read_split(
    repository: str, split: str, columns: Sequence[str], data_root: Path | None, first: int | None = None
) -> pd.DataFrame:
    """Returns the rows of a split in the order of its parquet files; images are dicts that hold their encoded `bytes`.

    Args:
        repository: name of the data set.
        split: the beginning of the names of its files; may hold wildcards.
        columns: what is read of them.
        data_root: the folder of local copies.
        first: the first N rows are needed; files after them are not read.

    Raises:
        HiesError: the split is not here, cannot be read, or lacks a column.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = split_files(repository, split, data_root)
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


def image_files(column: pd.Series, where: str) -> list[bytes]:
    """Returns the encoded files of a column of images; raises HiesError for a row of the split `where` without one."""
    files = [image.get("bytes", b"") if isinstance(image, dict) else b"" for image in column]
    if (missing := next((row for row, file in enumerate(files) if not file), None)) is not None:
        raise HiesError(f"Row {missing} of {where} holds no image; give a whole copy.")
    return files


def class_names(repository: str, split: str, column: str, data_root: Path | None) -> tuple[str, ...]:
    """Returns the classes as the files of a split name them, in the order of their indices; none where they do not."""
    import pyarrow.parquet as pq

    paths = split_files(repository, split, data_root)
    metadata = (pq.read_schema(paths[0]).metadata or {}) if paths else {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return tuple(features.get(column, {}).get("names") or ())


@cache
def split_identity(repository: str, split: str, data_root: Path | None) -> str:
    """Returns a digest of the files of a split: equal wherever they lie, different as soon as one value is."""
    return digest([sha256_of(path) for path in split_files(repository, split, data_root)])


@cache
def split_files(repository: str, split: str, data_root: Path | None) -> list[Path]:
    """Returns the parquet files of a split in order; none where the data set has no such split.

    Raises:
        HiesError: the data set is not here; the sentence says how to get it.
    """
    names = f"{split}-*.parquet"
    folder: Any = _local_copy(repository, data_root)
    if folder is None:
        import huggingface_hub

        try:
            folder = huggingface_hub.snapshot_download(
                repository, repo_type="dataset", allow_patterns=[names, f"*/{names}"]
            )
        except Exception as error:  # huggingface_hub raises whatever its network layer does
            raise HiesError(_how_to_get(repository, data_root)) from error
    return sorted(Path(folder).rglob(names))


def _local_copy(repository: str, data_root: Path | None) -> Path | None:
    if data_root is None:
        return None
    if not data_root.is_dir():
        raise ParameterError("data_root", str(data_root), f"name a folder that holds {repository}")
    return data_root / repository if (data_root / repository).is_dir() else None


def _how_to_get(repository: str, data_root: Path | None) -> str:
    reason = "no data_root is given" if data_root is None else f"data_root={data_root} does not hold it"
    return (
        f"The data set {repository} is not here: {reason} and the Hugging Face Hub cannot be reached; set data_root "
        f"(or the environment's HIES_DATA) to a folder with a copy in {repository}/, or connect to the Hub."
    )
