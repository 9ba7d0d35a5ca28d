"""apidocs: which library does this sentence document? An embedded text task that needs no download.

Its examples are the first sentences of docstrings of installed packages.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hies.errors import ParameterError
from hies.storage import cached, digest
from hies.tasks.base import ClassifierTask
from hies.tasks.embedded import packages
from hies.tasks.embedded.packages import SENTENCES_VERSION, Excerpt, key_of, sentences
from hies.tasks.splits import Split, Splits

SENTENCE_SHARES = {"train": 0.75, "selection": 0.09, "report": 0.16}  # of the source files
SentencePools = dict[str, dict[str, list[str]]]  # split -> library -> sentences


@dataclass(frozen=True)
class ApiDocs(ClassifierTask):
    """Sentences of several libraries, as many of each.

    Attributes:
        libraries: the classes.
        min_words: words of the shortest sentence.
        train_per_class: examples of a class at most, for training.
        selection_per_class: likewise, for selection.
        report_per_class: likewise, for the report.
    """

    name: ClassVar[str] = "apidocs"
    modality: ClassVar[str] = "text"

    libraries: tuple[str, ...] = ("torch", "transformers", "numpy", "sklearn", "matplotlib")
    min_words: int = 5
    train_per_class: int = 950
    selection_per_class: int = 100
    report_per_class: int = 170

    def __post_init__(self) -> None:
        super().__post_init__()
        packages.check_libraries(self.libraries, 2)
        packages.check_sizes(self, "min_words", "train_per_class", "selection_per_class", "report_per_class")

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the libraries."""
        return tuple(self.libraries)

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the installed versions and the knobs; nothing is parsed for it."""
        return digest([self._source_identity(), self.train_per_class, self.selection_per_class, self.report_per_class])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns balanced splits whose source files do not overlap."""
        path = cache_dir / "data" / f"apidocs-{digest(self._source_identity())}.json.gz"

        def parse() -> SentencePools:
            return divide_sentences(packages.read_packages(self.libraries, sentences), self.min_words)

        pools = cached(path, parse, packages.write_json, packages.read_json)
        return Splits(**{split: self._split(pools[split], getattr(self, f"{split}_per_class")) for split in pools})

    def _source_identity(self) -> list[object]:
        return [SENTENCES_VERSION, self.min_words, packages.installed_versions(self.libraries)]

    def _split(self, pool: dict[str, list[str]], per_class: int) -> Split:
        """Returns the classes in turn, so that the first examples of a split are balanced, too.

        The class with the fewest sentences decides how many each has, `per_class` at most.
        """
        available = {library: len(pool[library]) for library in self.libraries}
        scarcest = min(available, key=lambda library: available[library])
        if not available[scarcest]:
            raise ParameterError("libraries", scarcest, f"it has no sentence of {self.min_words} words")
        per_class = min(per_class, available[scarcest])
        texts = [pool[library][i] for i in range(per_class) for library in self.libraries]
        return Split({"text": texts}, np.tile(np.arange(len(self.libraries)), per_class))


def divide_sentences(by_library: Mapping[str, Iterable[Excerpt]], min_words: int) -> SentencePools:
    """Returns sentences by split and library, in an order that depends on nothing but the sentences.

    A source file goes into one split whole. A sentence that several libraries have is dropped; one that occurs again
    within a library, or differs in case, digits or identifiers alone, is kept once.
    """
    kept: dict[str, dict[str, Excerpt]] = {library: {} for library in by_library}
    owners: dict[str, set[str]] = defaultdict(set)
    for library, candidates in by_library.items():
        for sentence in candidates:
            key = key_of(sentence.text)
            owners[key].add(library)
            if len(sentence.text.split()) >= min_words and len(key.split()) >= 3:
                kept[library].setdefault(key, sentence)
    pools: SentencePools = {split: {library: [] for library in by_library} for split in SENTENCE_SHARES}
    for library, by_key in kept.items():
        for key, sentence in sorted(by_key.items(), key=lambda item: packages.draw_number(library, item[1].text)):
            if len(owners[key]) == 1:
                pools[packages.draw_split(SENTENCE_SHARES, library, sentence.file)][library].append(sentence.text)
    return pools
