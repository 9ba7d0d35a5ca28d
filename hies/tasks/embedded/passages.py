"""From documents to passages in three splits, and from passages to questions with four continuations."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from hies.errors import HiesError
from hies.tasks.base import Split
from hies.tasks.embedded.docstrings import Excerpt
from hies.tasks.embedded.packages import draw_number, draw_split

PASSAGE_SHARES = {"train": 0.8, "selection": 0.06, "report": 0.14}  # of the source files
SHARED_RUN = 8  # successive words that no continuation of a question shares with the training files
OPTIONS = 4
NEAREST = 24  # passages whose continuations are about as rare, of which the wrong ones are drawn


@dataclass(frozen=True)
class Passage:
    """Successive words of a document, cut in two.

    Attributes:
        context: the first of them.
        continuation: the others.
        file: where the document stands, its library in front.
    """

    context: str
    continuation: str
    file: str


@dataclass(frozen=True)
class PassagePools:
    """Passages for each split.

    Attributes:
        passages: split -> its passages, in an order that depends on their words alone.
        counts: how often each word occurs in the training files.
    """

    passages: dict[str, list[Passage]]
    counts: Counter[str]

    def rarity(self, text: str) -> float:
        """Returns how improbable the words of a text are by their frequency alone, in nats."""
        total = self.counts.total() + 1
        return sum(log(total / (self.counts[word] + 1)) for word in words_of(text))


def divide_passages(
    by_library: Mapping[str, Iterable[Excerpt]], context_words: int, continuation_words: int
) -> PassagePools:
    """Returns passages of a fixed number of words by split.

    A source file goes into one split whole, and a document is taken once. Training passages are all that a document
    has, one after the other. The others begin a document; no two have the same continuation, and no `SHARED_RUN`
    successive words of a continuation stand in a training file. Words that differ in case, digits and punctuation
    alone count as equal.
    """
    by_split: dict[str, list[Excerpt]] = {split: [] for split in PASSAGE_SHARES}
    once: dict[str, Excerpt] = {}
    for library, group in by_library.items():
        for document in group:
            words = " ".join(words_of(document.text))
            once.setdefault(words, Excerpt(document.text, f"{library}/{document.file}"))
    for document in once.values():
        by_split[draw_split(PASSAGE_SHARES, document.file)].append(document)
    train = [words_of(document.text) for document in by_split["train"]]
    passages = {
        split: [piece for document in group for piece in _pieces(document, context_words, continuation_words, split)]
        for split, group in by_split.items()
    }
    fit = _unseen([*passages["selection"], *passages["report"]], train, min(SHARED_RUN, continuation_words))
    for split in ("selection", "report"):
        passages[split] = [passage for passage in passages[split] if passage in fit]
    for pieces in passages.values():
        pieces.sort(key=lambda passage: draw_number(passage.file, passage.context, passage.continuation))
    return PassagePools(passages, Counter(word for words in train for word in words))


def make_questions(passages: Sequence[Passage], rarity: Callable[[str], float], seed: np.random.SeedSequence) -> Split:
    """Returns questions: which of four continuations is that of the context? Each place is the right one equally often.

    The wrong ones continue passages of other files and are about as rare by their words alone, so that a model that
    does not look at the context has little to go by.

    Raises:
        HiesError: there are too few passages.
    """
    generator = np.random.default_rng(seed)
    ranked = sorted(range(len(passages)), key=lambda i: rarity(passages[i].continuation))
    labels = generator.permutation(np.arange(len(passages)) % OPTIONS)
    options: list[list[str]] = [[] for _ in passages]
    for rank, index in enumerate(ranked):
        near = _nearest(passages, ranked, rank)
        if len(near) < OPTIONS - 1:
            raise HiesError(f"{len(passages)} passages are too few for {OPTIONS} continuations from different files.")
        options[index] = [passages[i].continuation for i in generator.choice(near, OPTIONS - 1, replace=False)]
        options[index].insert(labels[index], passages[index].continuation)
    return _split(passages, options, labels)


def as_passages(passages: Sequence[Passage]) -> Split:
    """Returns every passage with its real continuation alone."""
    return _split(passages, [[passage.continuation] for passage in passages], np.zeros(len(passages)))


def words_of(text: str) -> list[str]:
    """Returns the words of a text in lower case, without digits and punctuation."""
    return re.findall(r"[^\W\d_]+", text.lower())


def _split(passages: Sequence[Passage], options: Sequence[Sequence[str]], labels: np.ndarray) -> Split:
    """Returns columns as `hies.tasks.lm_eval.choose` takes them."""
    inputs = {
        "contexts": [[passage.context] for passage in passages],
        "continuations": [[f" {text}" for text in texts] for texts in options],
        "sizes": [[len(text) for text in texts] for texts in options],
    }
    return Split(inputs, labels.astype(np.int64))


def _nearest(passages: Sequence[Passage], ranked: Sequence[int], rank: int) -> list[int]:
    """The passages of other files next to a rank, `NEAREST` at most."""
    file = passages[ranked[rank]].file
    by_distance = sorted(range(len(ranked)), key=lambda other: abs(other - rank))
    return [ranked[i] for i in by_distance if passages[ranked[i]].file != file][:NEAREST]


def _pieces(document: Excerpt, context_words: int, continuation_words: int, split: str) -> Iterator[Passage]:
    words, size = document.text.split(), context_words + continuation_words
    ends = range(size, len(words) + 1, size)
    for end in ends if split == "train" else ends[:1]:
        cut = end - continuation_words
        yield Passage(" ".join(words[end - size : cut]), " ".join(words[cut:end]), document.file)


def _unseen(passages: Sequence[Passage], texts: Iterable[Sequence[str]], length: int) -> set[Passage]:
    """The passages whose continuation no other has, and which shares no `length` successive words with the texts."""
    words = {passage: tuple(words_of(passage.continuation)) for passage in passages}
    often = Counter(words.values())
    wanted = {run for each in often for run in _runs(each, length)}
    seen = {run for text in texts for run in _runs(text, length) if run in wanted}
    return {
        passage
        for passage, each in words.items()
        if often[each] == 1 and len(each) >= length and seen.isdisjoint(_runs(each, length))
    }


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))
