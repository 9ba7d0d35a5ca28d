"""apidocs: which library does this sentence document? An embedded text task that needs no download.

Its examples are the first sentences of docstrings of installed packages. The same installed versions give the same data
on every machine.
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from hies.errors import HiesError
from hies.storage import cached, digest
from hies.tasks.base import Split, Splits, Task
from hies.tasks.embedded.docstrings import FORMAT, Sentence, sentences

DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # import name -> name on the package index, where they differ
SHARES = {"train": 0.75, "selection": 0.09, "report": 0.16}  # of the source files
Pools = dict[str, dict[str, list[str]]]  # split -> library -> sentences


@dataclass(frozen=True)
class ApiDocs(Task):
    """Knobs: the libraries (classes), the shortest sentence in words, the most examples of a class in each split."""

    name: ClassVar[str] = "apidocs"
    modality: ClassVar[str] = "text"

    libraries: tuple[str, ...] = ("torch", "transformers", "numpy", "sklearn", "matplotlib")
    min_words: int = 5
    train_per_class: int = 950
    selection_per_class: int = 100
    report_per_class: int = 170

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.libraries)) < max(2, len(self.libraries)):
            raise HiesError(f"task.libraries is {list(self.libraries)}; it needs at least two, all different.")
        sizes = (self.min_words, self.train_per_class, self.selection_per_class, self.report_per_class)
        if min(sizes) < 1:
            raise HiesError(
                "task.min_words, train_per_class, selection_per_class and report_per_class are "
                f"{', '.join(map(str, sizes))}; each must be at least 1."
            )

    def label_names(self) -> tuple[str, ...]:
        """The libraries."""
        return tuple(self.libraries)

    def identity(self, data_root: Path | None) -> str:
        """A digest of the installed versions and the knobs; nothing is parsed for it."""
        return digest([self._source_identity(), self.train_per_class, self.selection_per_class, self.report_per_class])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Balanced splits whose source files do not overlap."""
        path = cache_dir / "data" / f"apidocs-{digest(self._source_identity())}.json.gz"
        pools = cached(path, self._parse, _write, _read)
        return Splits(
            self._split(pools, "train", self.train_per_class),
            self._split(pools, "selection", self.selection_per_class),
            self._split(pools, "report", self.report_per_class),
        )

    def _source_identity(self) -> list[object]:
        return [FORMAT, self.min_words, [[library, _version(library)] for library in self.libraries]]

    def _parse(self) -> Pools:
        folders = [_folder(library) for library in self.libraries]
        with ProcessPoolExecutor(min(2, len(folders))) as pool:
            parsed = pool.map(_sentences, folders)
            bar = tqdm(parsed, desc="reading docstrings", total=len(folders), unit="library", disable=None)
            found = dict(zip(self.libraries, bar, strict=True))
        return divide(found, self.min_words)

    def _split(self, pools: Pools, split: str, per_class: int) -> Split:
        """The classes in turn, so that the first examples of a split are balanced, too.

        The class with the fewest sentences decides how many each has, `per_class` at most.
        """
        available = {library: len(pools[split][library]) for library in self.libraries}
        scarcest = min(available, key=lambda library: available[library])
        if not available[scarcest]:
            raise HiesError(f"task.libraries names {scarcest!r}, which has no sentence of {self.min_words} words.")
        per_class = min(per_class, available[scarcest])
        texts = [pools[split][library][i] for i in range(per_class) for library in self.libraries]
        return Split({"text": texts}, np.tile(np.arange(len(self.libraries)), per_class))


def divide(found: Mapping[str, Iterable[Sentence]], min_words: int) -> Pools:
    """Sentences by split and library, in an order that depends on nothing but the sentences.

    A source file goes into one split whole. A sentence that several libraries have is dropped; one that occurs again
    within a library, or differs in case, digits or identifiers alone, is kept once.
    """
    kept: dict[str, dict[str, Sentence]] = {library: {} for library in found}
    owners: dict[str, set[str]] = defaultdict(set)
    for library, candidates in found.items():
        for sentence in candidates:
            owners[sentence.key].add(library)
            if len(sentence.text.split()) >= min_words and len(sentence.key.split()) >= 3:
                kept[library].setdefault(sentence.key, sentence)
    pools: Pools = {split: {library: [] for library in found} for split in SHARES}
    for library, by_key in kept.items():
        for sentence in sorted(by_key.values(), key=lambda s: _draw(library, s.text)):
            if len(owners[sentence.key]) == 1:
                pools[_split_of(library, sentence.file)][library].append(sentence.text)
    return pools


def _split_of(library: str, file: str) -> str:
    position = _draw(library, file)
    for split, share in SHARES.items():
        if position < share:
            return split
        position -= share
    return "report"


def _draw(*words: str) -> float:
    """A number in [0, 1) that depends on the words alone."""
    return int(hashlib.sha256("\n".join(words).encode()).hexdigest()[:12], 16) / 16**12


def _sentences(folder: Path) -> list[Sentence]:
    return list(sentences(folder))


def _folder(library: str) -> Path:
    """Where an installed package lies, found without importing it."""
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise HiesError(f"task.libraries names {library!r}, which is not an installed package.")
    return Path(next(iter(spec.submodule_search_locations)))


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(library, library))
    except importlib.metadata.PackageNotFoundError:
        raise HiesError(f"task.libraries names {library!r}, which is not installed; pip install it.") from None


def _write(path: Path, pools: Pools) -> None:
    path.write_bytes(gzip.compress(json.dumps(pools).encode(), mtime=0))


def _read(path: Path) -> Pools:
    return json.loads(gzip.decompress(path.read_bytes()))
