"""Data sets of the Hugging Face Hub, or local copies of them in the same layout."""

import hashlib
import tempfile
from functools import cache
from pathlib import Path

import datasets
import pandas as pd

from hies.errors import HiesError
from hies.storage import digest

Frames = dict[str, pd.DataFrame]  # split as the data set names it -> its rows


@cache
def frames(repository: str, config: str, data_root: Path | None) -> Frames:
    """The splits of one configuration, from `data_root`/`repository` if that folder is there, else from the Hub.

    Raises:
        HiesError: neither is to be had; the sentence says how to get either.
    """
    if data_root is not None and not data_root.is_dir():
        raise HiesError(f"data_root is {str(data_root)!r}, which is no folder; name one that holds {repository}.")
    local = data_root / repository if data_root is not None else None
    source = str(local) if local is not None and local.is_dir() else repository
    quiet = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        return _load(source, config, remember=source == repository)
    except Exception as error:  # datasets raises whatever its network or file layer does
        raise HiesError(_how_to_get(repository, config, data_root, source != repository)) from error
    finally:
        if quiet:
            datasets.utils.logging.enable_progress_bar()


def _load(source: str, config: str, remember: bool) -> Frames:
    """Read all splits; of a local folder nothing is remembered: datasets would take its later states for the first."""
    with tempfile.TemporaryDirectory() as passing:
        loaded = datasets.load_dataset(source, config, cache_dir=None if remember else passing)
        return {name: split.to_pandas() for name, split in loaded.items()}


@cache
def identity(repository: str, config: str, data_root: Path | None, splits: tuple[str, ...]) -> str:
    """A digest of what these splits contain: equal wherever the files lie, different as soon as one value is."""
    loaded = frames(repository, config, data_root)
    return digest([[name, _content(loaded[name])] for name in splits])


def _content(rows: pd.DataFrame) -> str:
    hashes = pd.util.hash_pandas_object(rows[sorted(rows.columns)], index=False)
    return hashlib.sha256(hashes.to_numpy().tobytes()).hexdigest()


def _how_to_get(repository: str, config: str, data_root: Path | None, found: bool) -> str:
    if found:
        return f"data_root={data_root} holds {repository}, but its configuration {config!r} cannot be read from there."
    given = "no data_root is given" if data_root is None else f"data_root={data_root} does not hold it"
    return (
        f"The data set {repository} ({config}) is not here: {given} and the Hugging Face Hub does not answer; set "
        f"data_root (or the environment's HIES_DATA) to a folder with a copy in {repository}/, or connect to the Hub."
    )
