"""docs: which of four continuations is the real one? A language task that needs no download, and a text to learn from.

Its text is the prose of docstrings of installed packages. The same installed versions give the same data on every
machine. It trains the language models that are built from an architecture (`Model.home`).
"""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from hies.batching import Encoded
from hies.errors import HiesError
from hies.scoring.losses import IGNORED
from hies.storage import cached, digest
from hies.tasks import lm_eval as harness
from hies.tasks.base import PromptTask, Split, Splits
from hies.tasks.embedded.apidocs import _folder, _version
from hies.tasks.embedded.documents import Document, documents
from hies.tasks.embedded.passages import divide, pose, unposed

FORMAT = 1  # to be raised when the same packages and knobs give other data
VOCABULARY = 4096
PAD, BEGIN, END = "<pad>", "<s>", "</s>"  # in the order of their ids


@dataclass(frozen=True)
class Docs(PromptTask):
    """Knobs: where the text is from, the words of a context and of a continuation, the most examples of each split.

    data_seed: which wrong continuations a question has, and in which order.
    """

    name: ClassVar[str] = "docs"
    modality: ClassVar[str] = "language"

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
        if not self.libraries or len(set(self.libraries)) < len(self.libraries):
            raise HiesError(f"task.libraries is {list(self.libraries)}; it needs at least one, each once.")
        sizes = (self.context_words, self.continuation_words, self.train_size, self.selection_size, self.report_size)
        if min(sizes) < 1:
            raise HiesError(
                "task.context_words, continuation_words, train_size, selection_size and report_size are "
                f"{', '.join(map(str, sizes))}; each must be at least 1."
            )
        if not 0 <= self.data_seed < 2**32:
            raise HiesError(f"task.data_seed is {self.data_seed}; it must be between 0 and 4294967295.")

    def identity(self, data_root: Path | None) -> str:
        """A digest of the installed versions (lm-eval's, which asks, among them) and the knobs; nothing is parsed."""
        versions = [[library, _version(library)] for library in self.libraries]
        return digest([self.name, FORMAT, harness.version(), versions, self._knobs()])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Splits whose source files do not overlap; columns as `hies.tasks.lm_eval.choose` takes them.

        A training example is a piece of a document as long as a question, cut into a context and its continuation.
        """
        path = cache_dir / "data" / f"docs-{self.identity(data_root)}.json.gz"
        return cached(path, self._build, _write, _read)

    def make_processor(self, train: Split, architecture: dict[str, Any], max_length: int) -> PreTrainedTokenizerFast:
        """A byte-level tokenizer of 4,096 words, learnt from the training text; a text begins with `<s>`."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, BEGIN, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_texts(train), trainer)
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

    def options(self, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """The number of words, and the ids of the special ones."""
        return {
            "vocab_size": len(processor),
            "pad_token_id": processor.pad_token_id,
            "bos_token_id": processor.bos_token_id,
            "eos_token_id": processor.eos_token_id,
        }

    def encode(self, examples: Split, processor: Any, max_length: int) -> Encoded:
        """Each context with its real continuation as one text, all of whose tokens count in the loss.

        A text of more than `max_length` tokens loses its beginning.
        """
        rows = []
        for ids in processor(list(_texts(examples)))["input_ids"]:
            tokens = torch.tensor(ids[-max_length:])
            rows.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens})
        return Encoded(rows, {"input_ids": processor.pad_token_id, "labels": IGNORED})

    def answers(
        self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str
    ) -> dict[str, np.ndarray]:
        """The likeliest continuation, int64 [examples]: `predictions` by its log-probability, `norm` by its length."""
        return harness.choose(network, processor, examples.inputs, batch_size, precision)

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Calibration examples are training examples."""
        return {"calibration_source": "train"}

    def _knobs(self) -> list[Any]:
        sizes = [self.train_size, self.selection_size, self.report_size]
        return [self.context_words, self.continuation_words, *sizes, self.data_seed]

    def _build(self) -> Splits:
        folders = [_folder(library) for library in self.libraries]
        with ProcessPoolExecutor(min(2, len(folders))) as pool:
            parsed = pool.map(_documents, folders)
            bar = tqdm(parsed, desc="reading docstrings", total=len(folders), unit="library", disable=None)
            found = dict(zip(self.libraries, bar, strict=True))
        pools = divide(found, self.context_words, self.continuation_words)
        sizes = {"train": self.train_size, "selection": self.selection_size, "report": self.report_size}
        shown = {split: pools.passages[split][:size] for split, size in sizes.items()}
        if not all(shown.values()):
            raise HiesError(f"task.libraries is {list(self.libraries)}, which have too little text for three splits.")
        seeds = np.random.SeedSequence(self.data_seed).spawn(2)
        selection, report = (
            pose(shown[split], pools.rarity, seed) for split, seed in zip(("selection", "report"), seeds, strict=True)
        )
        return Splits(unposed(shown["train"]), selection, report)


def _documents(folder: Path) -> list[Document]:
    return list(documents(folder))


def _texts(examples: Split) -> Iterator[str]:
    """Each context with its real continuation."""
    columns = (examples.inputs["contexts"], examples.inputs["continuations"], examples.labels)
    for (context,), continuations, right in zip(*columns, strict=True):
        yield context + continuations[right]


def _write(path: Path, splits: Splits) -> None:
    found = {name: {"inputs": split.inputs, "labels": split.labels.tolist()} for name, split in vars(splits).items()}
    path.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))


def _read(path: Path) -> Splits:
    found = json.loads(gzip.decompress(path.read_bytes()))
    return Splits(**{name: Split(one["inputs"], np.array(one["labels"], np.int64)) for name, one in found.items()})
