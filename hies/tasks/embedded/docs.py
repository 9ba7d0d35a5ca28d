"""docs: which of four continuations is the real one? A language task that needs no download, and a text to learn from.

Its text is the prose of docstrings of installed packages. The same installed versions give the same data on every
machine. It trains the language models that are built from an architecture (`Model.pretrain_task`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.errors import ParameterError
from hies.storage import cached, digest
from hies.tasks import lm_eval as harness
from hies.tasks.base import Split, Splits
from hies.tasks.choices import ChoiceTask
from hies.tasks.embedded import packages
from hies.tasks.embedded.docstrings import documents
from hies.tasks.embedded.passages import as_passages, divide_passages, make_questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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
