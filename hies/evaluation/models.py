"""Models by name: where their weights come from, and how they are brought to a task. Needs no torch."""

import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hies.errors import HiesError, ParameterError
from hies.evaluation.sources import MERGE, commit_of, holds_adapter
from hies.evaluation.weights import GGUF, WEIGHTS, is_gguf
from hies.precision import AUTO, PRECISIONS
from hies.storage import GENERATION, RECORD, safe_filename, sha256_of
from hies.tasks import TASKS
from hies.tasks.base import Task
from hies.training import Finetuning

MODALITIES = ("text", "image", "language", "vision_language")
DTYPES = ("float32", "bfloat16")
PRUNABLE = "prunable"  # in place of a regular expression: the sites whose heads can be cut out
# Files that results depend on.
IDENTIFYING = (
    "config.json", "*.safetensors", "tokenizer*", "*vocab*", "merges*", "*processor_config.json", "chat_template*",
    "special_tokens_map.json", "added_tokens.json", "*.model", "bpe.codes", GENERATION, RECORD,
    # of the tokenizers of a few architectures alone
    "word_*.json", "dict*.txt", "emoji.json", "*.tokenizer", "*.spm", "normalizer.json", "byte_maps.json",
)  # fmt: skip
UNNAMED = {i: f"LABEL_{i}" for i in range(2)}  # what transformers calls the outputs of a classifier by default
CLASSIFIERS = {"text": "ForSequenceClassification", "image": "ForImageClassification"}  # modality -> their names' end


@dataclass(frozen=True)
class Model:
    """A model and how it is brought to a task; the fields are the knobs of `conf/model/<name>.yaml`.

    Attributes:
        name: what rows and figures call it; if empty, the last part of the source.
        modality: `text` and `image` models classify; `language` and `vision_language` models answer prompts.
        source: Hub name, local folder or GGUF file of the weights.
        packages: where the same weights are in installed Python packages (`package/path`), which are preferred, since
            they need no network: a folder, a GGUF file, or the parts of an archive.
        sha256: of the weights that must come out of them: of the GGUF file, else of `model.safetensors`.
        architecture: instead of a source, a configuration to build with random weights (`model_type` and its options).
        checkpoint: task -> Hub name or folder of a model that is already fine-tuned for it.
        label_order: task -> the output of that checkpoint for each label of the task (by default found from names or
            answers).
        finetune: how a missing checkpoint is made, as far as the task does not say it.
        max_length: tokens at which texts are cut.
        precision: `float32`, or `bfloat16` for the matrix products of fine-tuning, evaluation and the search of
            criterion=greedy (other criteria score heads in float32 all the same). `auto` stands for one of them until
            the device is known, and has no identity.
        batch_size: for scoring and evaluation; no result depends on it, but for the rounding of bfloat16 (which may
            swap heads that a greedy search finds alike).
        checkpointing: score heads in less memory and more time (`hies.collect(checkpoint=)`); no result depends on it.
        dtype: of the weights, `float32` or `bfloat16` (large models).
        pretrain_task: the task that an `architecture` is trained on where the task at hand trains nothing.
        sites: a regular expression; only heads of sites whose names it matches are scored and removed, and ratios
            count them alone. `prunable` takes the sites whose heads can be cut out.
    """

    name: str = ""
    modality: str = "text"
    source: str | None = None
    packages: list[str] = field(default_factory=list)
    sha256: str | None = None
    architecture: dict[str, Any] | None = None
    checkpoint: dict[str, str] = field(default_factory=dict)
    label_order: dict[str, list[int]] = field(default_factory=dict)
    finetune: Finetuning = field(default_factory=Finetuning)
    max_length: int = 128
    precision: str = "float32"
    batch_size: int = 64
    checkpointing: bool = False
    dtype: str = "float32"
    pretrain_task: str | None = None
    sites: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", safe_filename(Path(self.source or [*self.packages, "unnamed"][0]).name))
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ParameterError("name", self.name, "use letters, digits, dots, dashes and underscores")
        for name, values in {"precision": (*PRECISIONS, AUTO), "modality": MODALITIES, "dtype": DTYPES}.items():
            if getattr(self, name) not in values:
                raise ParameterError(name, getattr(self, name), f"use {' or '.join(values)}")
        for name, smallest in {"max_length": 2, "batch_size": 1}.items():
            if getattr(self, name) < smallest:
                raise ParameterError(name, getattr(self, name), f"it must be at least {smallest}")
        try:
            re.compile(self.sites or "")
        except re.error:
            raise ParameterError("sites", self.sites, "give a regular expression, such as 'language'") from None
        self._check_weights()

    def _check_weights(self) -> None:
        if not (self.source or self.packages or self.architecture or self.checkpoint):
            raise ParameterError("source", self.source, f"give the weights of {self.name!r}, a Hub name or a folder")
        if self.packages and not self.sha256:
            raise ParameterError("sha256", self.sha256, f"give that of the GGUF file, or of {WEIGHTS}, in the packages")
        if self.source and self._is_made:
            raise ParameterError("source", self.source, f"{self.name!r} has its own weights; use model=any for others")

    def finetuning(self, task: Task) -> Finetuning:
        """Returns the fine-tuning settings, with what the task changes in them."""
        try:
            return replace(self.finetune, **task.finetune)
        except TypeError:
            known = ", ".join(self.finetune.__dataclass_fields__)
            raise ParameterError("finetune", dict(task.finetune), f"its keys can be {known}") from None

    def finetuning_of_tasks(self, task: Task) -> set[str]:
        """Returns the names of the settings for which every task that is trained on has a value of its own."""
        task = self.training_task(task)
        names = {*task.finetune}
        return names if task.after is None else names & self.finetuning_of_tasks(task.after)

    def identity(self, task: Task) -> dict[str, Any]:
        """Returns what decides the weights for `task`: equal identities give equal results, wherever the files lie."""
        if self.precision not in PRECISIONS:  # two machines would compute different things under one identity
            raise ParameterError("precision", self.precision, f"settle it first: {' or '.join(PRECISIONS)}")
        common: dict[str, Any] = {"max_length": self.max_length, "precision": self.precision}
        common |= {} if self.dtype == "float32" else {"dtype": self.dtype}
        if task.name in self.checkpoint:
            order = self.label_order.get(task.name)
            return {"checkpoint": identity_of(self.checkpoint[task.name]), "order": order, **common}
        if self.asks_as_it_stands(task):
            return {"weights": self._weights_identity(), **common}
        if (trained_on := self.training_task(task)) is not task:
            # "home" is the older name of `pretrain_task`, which the ids of existing runs are made from.
            return {**self.identity(trained_on), "home": [trained_on.name, trained_on.fingerprint(None)]}
        weights = self.architecture or self._weights_identity()
        after = {} if task.after is None else {"after": [task.after.name, self.identity(task.after)]}
        return {"weights": weights, "finetune": vars(self.finetuning(task)), **after, **common}

    def asks_as_it_stands(self, task: Task) -> bool:
        """Returns whether pretrained weights are put to the task without any training."""
        return not task.finetuned and self.architecture is None

    def training_task(self, task: Task) -> Task:
        """Returns the task that the weights for `task` are trained on: `pretrain_task` where it trains nothing itself.

        Raises:
            ParameterError: `pretrain_task` names no task.
        """
        if task.finetuned or self.pretrain_task in (None, task.name):
            return task
        if self.pretrain_task not in TASKS:
            expected = "it names the task that trains the model: docs, for example"
            raise ParameterError("pretrain_task", self.pretrain_task, expected)
        return TASKS[self.pretrain_task]()

    @property
    def _is_made(self) -> bool:
        """Whether what the packages hold is made into a folder: a GGUF file, or an archive."""
        return len(self.packages) > 1 or any(place.endswith(GGUF) for place in self.packages)

    def _weights_identity(self) -> str:
        if self._is_made:
            return str(self.sha256)[:12]
        with contextlib.suppress(ImportError):  # of which PackageNotFoundError is one
            for package in (place.partition("/")[0] for place in self.packages):  # existing ids have its version
                return f"{package}=={importlib.metadata.version(package.replace('_', '-'))}"
        return identity_of(self.source or "")


def fitted(model: Model, task: Task, data_root: Path | None) -> tuple[Model, Task]:
    """Returns a model and a task as they go together: the source is the checkpoint where its classifier fits the task.

    A task of one's own data takes the classes of that classifier. Folders alone are looked into: what the Hub has may
    not be here.
    """
    source = model.checkpoint.get(task.name, "" if model.packages else model.source)
    if not task.finetuned or not source or not (outputs := _outputs(Path(source), CLASSIFIERS[model.modality])):
        return model, task
    if (fitting := task.for_classifier(outputs, data_root)) is None:
        return model, task
    return replace(model, checkpoint={**model.checkpoint, task.name: source}), fitting


def _outputs(folder: Path, ending: str) -> list[str]:
    """Returns the names of the outputs of a classifier in a folder; none where it holds no such class, or no head."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not any(str(kind).endswith(ending) for kind in config.get("architectures") or ()):
            return []
        names = [name for _, name in sorted((int(i), name) for i, name in (config.get("id2label") or UNNAMED).items())]
        shapes = {name: shape for file in folder.glob("*.safetensors") for name, shape in _shapes(file)}
    except (OSError, ValueError, AttributeError, SafetensorError):  # no folder of a model, which loading it says
        return []
    parts = Counter(name.partition(".")[0] for name in shapes)
    body = max(parts, key=lambda part: parts[part], default="")  # bert. in bert.encoder..., beside classifier.weight
    beside = (shape for name, shape in shapes.items() if name.partition(".")[0] != body and "embed" not in name)
    return list(map(str, names)) if any(len(shape) == 2 and shape[0] == len(names) for shape in beside) else []


def _shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Yields the name and the shape of each tensor of a file, of which the header alone is read."""
    with safe_open(file, "numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping)
            yield name, tensors.get_slice(name).get_shape()


def check_fit(model: Model, task: Task) -> None:
    """Raises HiesError where the model cannot take what the task gives, or its folder holds an adapter."""
    if model.modality != task.modality:
        raise HiesError(f"model={model.name} takes {model.modality}, but task={task.name} gives {task.modality}.")
    _check_task_names(model, task)
    name = "checkpoint" if task.name in model.checkpoint else "source"
    source = model.checkpoint.get(task.name, model.source)
    if source and holds_adapter(Path(source)):
        raise ParameterError(name, source, MERGE)


def _check_task_names(model: Model, task: Task) -> None:
    """Raises ParameterError where an option names a task that is none, and so would do nothing.

    A checkpoint may be of another job's task of one's own, so only what is nearly a name is refused there.
    """
    named = {"pretrain_task": [model.pretrain_task] if model.pretrain_task else []}
    named |= {"checkpoint": list(model.checkpoint), "label_order": list(model.label_order)}
    known = {*TASKS, task.name} - {None}  # a table that names no file yet has no name
    for option, names in named.items():
        for name in (name for name in names if name not in known):
            close = difflib.get_close_matches(name, known, 1)
            if close or option == "pretrain_task":
                hint = f"did you mean {close[0]}? It" if close else "it"
                raise ParameterError(option, name, f"{hint} names a task: {', '.join(sorted(known))}")


def identity_of(source: str) -> str:
    """Returns a digest of what decides results in a folder or GGUF file, or a Hub name and its commit: NAME@COMMIT.

    A Hub name alone is that of a model that is neither here nor to be had: there is nothing to load.
    """
    folder = Path(source)
    if not folder.is_dir() and not is_gguf(folder):
        commit = commit_of(source)
        return source if commit is None else f"{source}@{commit}"
    hashed = hashlib.sha256()
    for file in _deciding(folder) if folder.is_dir() else [folder]:
        state = file.stat()
        hashed.update(_digest_of(file, state.st_mtime_ns, state.st_size))
    return hashed.hexdigest()[:12]


def last_change(folder: Path) -> int:
    """Returns when a file that decides results changed last, or came to its place, in nanoseconds.

    A copy may keep the time of what was written. It has a time of its own as an entry of the file system (`ctime`).
    """
    states = [file.stat() for file in _deciding(folder)]
    return max(max(state.st_mtime_ns, state.st_ctime_ns) for state in states)


def _deciding(folder: Path) -> list[Path]:
    """Returns the files of a folder that decide results, in order."""
    return sorted(filter(_tells, {file for name in IDENTIFYING for file in folder.glob(name)}))


def _tells(file: Path) -> bool:
    """Returns whether a file says what no other does: transformers makes a `generation_config.json` of config.json."""
    return file.name != GENERATION or '"_from_model_config": true' not in file.read_text(errors="replace")


@lru_cache(maxsize=1024)
def _digest_of(file: Path, changed: int, size: int) -> bytes:
    """Returns the SHA-256 of a file, which every job of a sweep asks for; one that was written since is read anew."""
    return bytes.fromhex(sha256_of(file))
