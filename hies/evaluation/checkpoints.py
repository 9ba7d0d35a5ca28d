"""A model brought to a task: its weights, its checkpoint (fine-tuned here once if missing), processor and answers."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hies.batch_size import BatchSize, is_out_of_memory
from hies.batching import Encoded, padding_id
from hies.errors import HiesError, ParameterError
from hies.evaluation import metrics
from hies.evaluation.label_order import find_label_order
from hies.evaluation.models import Model, check_fit, identity_of
from hies.evaluation.networks import PROCESSORS, build, load_network, load_weights, save_network, trained_on
from hies.evaluation.positions import check_positions
from hies.evaluation.weights import check_installed, weights_folder
from hies.storage import cached, digest, safe_filename, unchanged_folder
from hies.tasks.base import Answers, Task
from hies.tasks.splits import Split, Splits
from hies.training.loop import finetune


@dataclass(eq=False)
class TaskModel:
    """Lazily loads a model fine-tuned for a task; nothing that it hands out is to be changed.

    Attributes:
        model: where its weights come from.
        task: what it answers.
        data_root: the folder of local copies of data sets.
        cache_dir: the folder of what is computed once.
        device: where it computes.
        declared: the identity of the data by the task's own word, known before they are read.
    """

    model: Model
    task: Task
    data_root: Path | None
    cache_dir: Path
    device: torch.device

    def __post_init__(self) -> None:
        check_fit(self.model, self.task)
        if not (self.task.name in self.model.checkpoint or self.model.architecture):
            check_installed(self.model)  # before the data are read
        self.declared = self.task.fingerprint(self.data_root)
        self._encoded: dict[tuple[str, int | None], Encoded] = {}
        self._prepared: dict[tuple[str, int | None], Any] = {}
        self._batch_size = BatchSize(self.model.batch_size)

    @cached_property
    def splits(self) -> Splits:
        """The task's examples, all checked, the report split cut to `max_examples`."""
        return self.task.load_checked(self.data_root, self.cache_dir)

    @cached_property
    def data(self) -> str:
        """The identity of the data that were really read, which the names in the cache are made of.

        It is the declared one, unless other examples were read under that before: the cache remembers a digest of the
        first. What was computed from others is then neither found nor replaced.
        """
        learnt, every = self.splits.digests()[1:]
        names = {self.declared: learnt, digest([self.declared, self.task.max_examples]): every}
        # What is different of a task that the weights come from is different of what is computed with them.
        others = [one.data for one in self._before if one.data != one.declared]
        if not others and all(self._first_read(name, content) == content for name, content in names.items()):
            return self.declared
        return digest([self.declared, learnt, every, *others])

    def _first_read(self, name: str, content: str) -> str:
        """Returns the digest of the examples that were read first under a name: of these, if there were none."""
        # Beside the folders of the cache, so that none of them is emptied of what it belongs to.
        path = self.cache_dir / f"examples-{safe_filename(self.task.name)}-{name}.txt"
        return cached(path, lambda: content, Path.write_text, Path.read_text)

    @property
    def _before(self) -> list["TaskModel"]:
        """The same model on the tasks that the weights for this one are trained on first."""
        if not self.is_trained_here:
            return []
        after = [] if self.task.after is None else [self._on(self.task.after)]
        return after if self._trained is self else [self._trained]

    def labels(self, split_name: str) -> np.ndarray:
        """Returns the right answers of a split, [examples]."""
        return getattr(self.splits, split_name).labels

    @cached_property
    def processor(self) -> Any:
        """Turns texts and images into a model's inputs; None for images that are prepared already, or need none."""
        if "pixel_values" in self.splits.train.inputs:
            return None
        architecture = self.model.architecture
        if self.task.name in self.model.checkpoint or architecture is None:
            source = self.model.checkpoint.get(self.task.name) or self.pretrained
            return load_weights(PROCESSORS[self.model.modality], source)
        if self._trained is not self:
            return self._trained.processor
        if not self.task.finetuned and self._path.exists():
            return load_weights(PROCESSORS[self.model.modality], str(self._path))
        return self.task.make_processor(self.splits.train, architecture, self.model.max_length)

    @cached_property
    def pretrained(self) -> str:
        """Hub name or folder of the weights before any training here; empty for an architecture."""
        return "" if self.model.architecture else weights_folder(self.model, self.cache_dir)

    @cached_property
    def checkpoint(self) -> str:
        """Hub name or folder of the model fine-tuned for the task; made here if the model names none."""
        if self.task.name in self.model.checkpoint:
            return self.model.checkpoint[self.task.name]
        if self.model.asks_as_it_stands(self.task):
            return self.pretrained
        if self._trained is not self:
            return self._trained.checkpoint
        return cached(self._path, self._finetuned, self._save, unchanged_folder)

    @property
    def is_trained_here(self) -> bool:
        """Whether the weights for the task are made by training; if not, what is given is taken as it is."""
        return self.task.name not in self.model.checkpoint and not self.model.asks_as_it_stands(self.task)

    @property
    def training_name(self) -> str:
        """The task that the weights are trained on where that is done here."""
        return self._trained.task.name

    @property
    def checkpoint_is_made(self) -> bool:
        """Whether that has been done already."""
        return self._trained._path.exists()

    @cached_property
    def checkpoint_identity(self) -> str:
        """The Hub name of the checkpoint and its commit, or a digest of its weights."""
        return identity_of(self.checkpoint)

    def trained_on(self) -> dict[str, str]:
        """Returns the machine that the checkpoint was fine-tuned on, as an entry of a row's versions; {} if unknown."""
        return trained_on(self.checkpoint)

    @cached_property
    def label_order(self) -> list[int] | None:
        """The output of the model for each label of the task; None: the outputs are in the task's order."""
        if self.task.name not in self.model.checkpoint:
            return None
        configured, labels = self.model.label_order.get(self.task.name), self.labels("selection")

        def outputs() -> np.ndarray:
            return self._ask(self.network, self._prepare(self.splits.selection))["predictions"]

        return find_label_order(self.task, self.network, outputs, labels, configured, self.data_root)

    @cached_property
    def network(self) -> PreTrainedModel:
        """The fine-tuned model on its device, in evaluation mode."""
        identity = self.checkpoint_identity if self.is_trained_here else ""
        network = load_network(self.model, self.checkpoint)
        if identity and identity_of(self.checkpoint) != identity:  # what was read before is of other weights
            raise HiesError(f"The checkpoint {self.checkpoint} changed since the command began; give it again.")
        self.task.check_network(network, self.data_root, self.checkpoint)
        if identity and self._trained is self:  # classes may be renamed since; weights know them by number
            options = self.task.network_options(self.data_root, self.model.architecture or {}, self.processor)
            network.config.update({name: options[name] for name in ("id2label", "label2id") if name in options})
        check_positions(network, self.model.max_length, self._longest)
        self._name_padding(network)
        return network.to(self.device).eval()  # type: ignore[arg-type]

    def structure(self) -> PreTrainedModel:
        """Returns the model, or one that is built alike as long as its checkpoint is not made."""
        if self.is_trained_here and self._trained is self and not self._path.exists():
            return build(self.model, self.task, self.data_root, self.pretrained, self.processor)
        return self.network

    def encoded(self, split_name: str, examples: int | None = None) -> Encoded:
        """Returns (the first `examples` of) a split as the model takes it, labels in the order of its outputs."""
        key = (split_name, examples)
        if key not in self._encoded:
            self._encoded[key] = self.encode(self._first(split_name, examples))
        return self._encoded[key]

    def encode(self, examples: Split) -> Encoded:
        """Returns examples as the model takes them, labels in the order of its outputs."""
        options = self.processor, self.model.max_length, self._image_size
        return self.task.encode(self._in_order_of_outputs(examples), *options)

    def answers(self, network: torch.nn.Module, split_name: str = "report", examples: int | None = None) -> np.ndarray:
        """Returns what a network with these outputs answers on (the first `examples` of) a split, [examples]."""
        return self.all_answers(network, split_name, examples)["predictions"]

    def all_answers(self, network: torch.nn.Module, split_name: str = "report", examples: int | None = None) -> Answers:
        """Returns the same, by all rules of the task."""
        return self._in_order_of_labels(self._ask(network, self.prepared(split_name, examples)))

    def with_own_labels(self, examples: Split) -> Split:
        """Returns examples with what the model itself answers as labels.

        Raises:
            ParameterError: it writes its answers, so that its loss is that of a text that it did not write.
        """
        answers = self._ask(self.network, self._prepare(self._in_order_of_outputs(examples)))
        if "losses" not in answers:
            expected = f"the answers to task={self.task.name} are written and have no loss; use data"
            raise ParameterError("labels", "model", expected)
        return replace(examples, labels=self._in_order_of_labels(answers)["predictions"])

    def _in_order_of_labels(self, answers: Answers) -> Answers:
        """Returns answers with the labels in the place of the outputs that stand for them."""
        if self.label_order is not None:
            answers["predictions"] = np.argsort(self.label_order)[answers["predictions"]]
        return answers

    def prepared(self, split_name: str, examples: int | None = None) -> Any:
        """Returns what the task's answers are read from, prepared once."""
        key = (split_name, examples)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(self._in_order_of_outputs(self._first(split_name, examples)))
        return self._prepared[key]

    def _prepare(self, examples: Split) -> Any:
        return self.task.prepare(examples, self.processor, self.model.max_length, self._image_size)

    def _in_order_of_outputs(self, examples: Split) -> Split:
        """Returns the examples with the outputs that stand for their labels as labels, as a loss takes them."""
        if self.label_order is None:
            return examples
        return replace(examples, labels=np.array(self.label_order)[examples.labels])

    def _name_padding(self, network: PreTrainedModel) -> None:
        """Tells a classifier of texts which token is padding, where its configuration names none that there is."""
        if self.model.modality == "text" and padding_id(network) is None:
            config, tokenizer = network.config.get_text_config(), self.processor
            tokens = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
            config.pad_token_id = next(token for token in tokens if token is not None and token < config.vocab_size)

    def _ask(self, network: torch.nn.Module, prepared: Any) -> Answers:
        return self._batch_size.retry_on_oom(
            lambda size: self.task.answers(network, self.processor, prepared, size, self.model.precision)
        )

    def _first(self, split_name: str, examples: int | None) -> Split:
        return getattr(self.splits, split_name).first(examples)

    def _longest(self) -> int:
        """Tokens of the longest example that the model is given as it was cut."""
        options = self.processor, self.model.max_length, self._image_size
        prepared = [self.task.prepare(split, *options) for split in (self.splits.selection, self.splits.report)]
        cut = [self.task.encode(self.splits.train, *options)]
        cut += [split for split in prepared if isinstance(split, Encoded)]  # others are cut where they are asked
        return max((encoded.length(place) for encoded in cut for place in range(len(encoded))), default=0)

    @property
    def _image_size(self) -> int | None:
        return (self.model.architecture or {}).get("image_size")  # where no image processor knows it

    @property
    def _path(self) -> Path:
        """The folder of the checkpoint that is fine-tuned here."""
        identity = digest([self.model.identity(self.task), self.data])
        name = f"{safe_filename(self.model.name)}-{safe_filename(self.task.name)}-{identity}"
        return self.cache_dir / "checkpoints" / name

    @cached_property
    def _trained(self) -> "TaskModel":
        """The same model on the task that its weights are trained on."""
        task = self.model.training_task(self.task)
        return self if task is self.task else self._on(task)

    def _on(self, task: Task) -> "TaskModel":
        return TaskModel(self.model, task, self.data_root, self.cache_dir, self.device)

    def _finetuned(self) -> PreTrainedModel:
        start = self.pretrained if self.task.after is None else self._on(self.task.after).checkpoint
        network = build(self.model, self.task, self.data_root, start, self.processor)
        check_positions(network, self.model.max_length, self._longest)
        self._name_padding(network)
        network.to(self.device)  # type: ignore[arg-type]

        def validate(trained: torch.nn.Module) -> float:
            answers = self.answers(trained, "selection")
            return metrics.quality(self.task.metric, self.labels("selection"), answers)[1] or 0.0

        title = f"fine-tuning {self.model.name} on {self.task.name}"
        settings = self.model.finetuning(self.task)
        try:
            finetune(network, self.encoded("train"), validate, settings, title, self.model.precision)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise HiesError(
                f"Out of memory while {title}; model.finetune.batch_size is {settings.batch_size}, give a smaller one "
                "(it is not halved for you, since the fine-tuned model depends on it)."
            ) from error
        return network

    def _save(self, folder: Path, network: PreTrainedModel) -> None:
        save_network(folder, network, self.processor, self.device)
