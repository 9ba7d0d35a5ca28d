"""docs: which of four continuations is the real one? A language task that needs no download, and a text to learn from.

Its text is the prose of docstrings of installed packages. The same installed versions give the same data on every
machine. It trains the language models that are built from an architecture (`Model.pretrain_task`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.errors import HiesError, ParameterError
from hies.storage import cached, digest
from hies.tasks import lm_eval as harness
from hies.tasks.choice_task import ChoiceTask
from hies.tasks.embedded import packages
from hies.tasks.embedded.packages import Excerpt, documents, draw_number, draw_split
from hies.tasks.splits import Split, Splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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


DOCS_VERSION = 1  # to be raised when the same packages and knobs give other data
VOCABULARY = 4096
PAD, BEGIN, END = "<pad>", "<s>", "</s>"  # in the order of their ids


@dataclass(frozen=True)
class Docs(ChoiceTask):
    """Contexts from docstrings, each with four continuations.

    Attributes:
        libraries: the packages whose docstrings are read.
        context_words: words of a context.
        continuation_words: words of a continuation.
        train_size: examples at most, for training.
        selection_size: likewise, for selection.
        report_size: likewise, for the report.
        data_seed: decides which wrong continuations a question has, and in which order.
    """

    name: ClassVar[str] = "docs"

    libraries: tuple[str, ...] = (
        "torch", "transformers", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "sympy", "networkx",
    )  # fmt: skip
    context_words: int = 48
    continuation_words: int = 16
    train_size: int = 20000
    selection_size: int = 200
    report_size: int = 500
    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        packages.check_libraries(self.libraries, 1)
        packages.check_sizes(self, "context_words", "continuation_words", "train_size", "selection_size", "report_size")

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the installed versions, lm-eval's among them, and the knobs; nothing is parsed."""
        sizes = [self.train_size, self.selection_size, self.report_size]
        knobs = [self.context_words, self.continuation_words, *sizes, self.data_seed]
        return digest([self.name, DOCS_VERSION, harness.version(), packages.installed_versions(self.libraries), knobs])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns splits whose source files do not overlap; columns as `hies.tasks.lm_eval.choose` takes them.

        A training example is a piece of a document as long as a question, cut into a context and its continuation.
        """
        path = cache_dir / "data" / f"docs-{self.identity(data_root)}.json.gz"
        columns = cached(path, self._build, packages.write_json, packages.read_json)
        return Splits(
            **{name: Split(one["inputs"], np.array(one["labels"], np.int64)) for name, one in columns.items()}
        )

    def make_processor(self, train: Split, architecture: dict[str, Any], max_length: int) -> "PreTrainedTokenizerFast":
        """Returns a byte-level tokenizer of 4,096 words, learnt from the training text; a text begins with `<s>`."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, BEGIN, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(self.texts(train), trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            bos_token=BEGIN,
            eos_token=END,
            model_input_names=["input_ids", "attention_mask"],
        )

    def network_options(self, data_root: Path | None, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """Returns the number of words, and the ids of the special ones."""
        ids = {name: getattr(processor, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        return {"vocab_size": len(processor), **ids}

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Returns that calibration examples are training examples."""
        return {"calibration_source": "train"}

    def _build(self) -> dict[str, Any]:
        by_library = packages.read_packages(self.libraries, documents)
        pools = divide_passages(by_library, self.context_words, self.continuation_words)
        shown = {split: group[: getattr(self, f"{split}_size")] for split, group in pools.passages.items()}
        if not all(shown.values()):
            raise ParameterError("libraries", list(self.libraries), "they have too little text for three splits")
        splits = {"train": as_passages(shown["train"])}
        for split, seed in zip(("selection", "report"), np.random.SeedSequence(self.data_seed).spawn(2), strict=True):
            splits[split] = make_questions(shown[split], pools.rarity, seed)
        return {name: {"inputs": split.inputs, "labels": split.labels.tolist()} for name, split in splits.items()}
