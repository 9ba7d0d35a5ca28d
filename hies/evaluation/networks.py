"""Networks and processors of a model: loaded, pruned or not, built from an architecture, or given a new classifier."""

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from hies.batch_size import is_out_of_memory
from hies.errors import HiesError, ParameterError, first_line
from hies.evaluation.models import Model, check_fit
from hies.evaluation.sources import check_no_adapter, commit_of
from hies.evaluation.weights import NOTE
from hies.precision import chance_kept, machine
from hies.pruning.counts import settle_counts
from hies.pruning.files import load_pruned, save_pruned
from hies.pruning.removal import pruned_heads
from hies.pruning.transformers4 import holds_pruned
from hies.storage import save_weights, write_checksums
from hies.tasks.base import Task

# What configurations take and keep under other names.
NOT_IN_CONFIGURATIONS = {"attn_implementation", "rope_theta", "partial_rotary_factor"}
NETWORKS = {
    "text": transformers.AutoModelForSequenceClassification,
    "image": transformers.AutoModelForImageClassification,
    "language": transformers.AutoModelForCausalLM,
    "vision_language": transformers.AutoModelForImageTextToText,
}  # modality -> class
PROCESSORS = {
    "text": AutoTokenizer,
    "image": transformers.AutoImageProcessor,
    "language": AutoTokenizer,
    "vision_language": transformers.AutoProcessor,
}  # modality -> class
TRAINED_ON = "trained_on.txt"  # of a checkpoint that is fine-tuned here; no part of its identity


def build(
    model: Model, task: Task, data_root: Path | None = None, start: str = "", processor: Any = None
) -> PreTrainedModel:
    """Returns a model before fine-tuning, with the outputs that the task needs, and the rest from its weights.

    Args:
        model: where the weights come from.
        task: the task.
        data_root: the folder of local copies of data sets, which may name the classes.
        start: Hub name or folder of the weights, or of a checkpoint of another task, whose classifier is replaced;
            the model's source by default.
        processor: what a model that is built from an architecture reads its tokens with.
    """
    check_fit(model, task)
    start = start or ("" if model.architecture else model.source or "")
    if model.asks_as_it_stands(task):
        return load_network(model, start)
    options = task.network_options(data_root, model.architecture or {}, processor)
    with chance_kept():
        torch.manual_seed(model.finetuning(task).seed)  # what is new is drawn at random
        if start:
            return _with_new_classifier(NETWORKS[model.modality], start, options)
        return _from_architecture(model, options)


def load_network(model: Model, source: str) -> PreTrainedModel:
    """Returns the weights of a checkpoint, pruned or not, in the model's dtype.

    Raises:
        HiesError: it cannot be read, is of another class, or lacks weights, which would be drawn at random.
    """
    kind, dtype = NETWORKS[model.modality], getattr(torch, model.dtype)
    if holds_pruned(Path(source)):
        network = load_pruned(source, dtype=dtype)
        if not _is_of(kind, network):
            raise HiesError(f"{source} holds a pruned {type(network).__name__}, which is no {kind.__name__[4:]}.")
        return network
    network, report = load_weights(kind, source, dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise HiesError(f"{source} lacks the weights {missing[0]!r} of its {type(network).__name__}; give a whole one.")
    return network


def save_network(folder: Path, network: PreTrainedModel, processor: Any, device: torch.device) -> None:
    """Writes a fine-tuned model, pruned or not, what reads its inputs, where it was trained, and their checksums."""
    (save_pruned if pruned_heads(network) else save_weights)(network, folder)
    if processor is not None:
        processor.save_pretrained(folder)
    known = {**machine(device), "torch": torch.__version__}
    text = ", ".join(f"{name} {value}" for name, value in known.items())
    (folder / TRAINED_ON).write_text(f"{text}\n", encoding="utf-8")
    write_checksums(folder)


def trained_on(checkpoint: str) -> dict[str, str]:
    """Returns the machine that a checkpoint was fine-tuned on, and what weights made here were before, where known.

    They are entries of a row's versions.
    """
    found = {}
    for name, file in {"trained on": TRAINED_ON, "weights": NOTE}.items():
        if (Path(checkpoint) / file).is_file():
            with (Path(checkpoint) / file).open(encoding="utf-8", errors="replace") as stream:
                found[name] = stream.readline(200).strip()
    return found


def _is_of(kind: Any, network: PreTrainedModel) -> bool:
    """Returns whether an Auto class would give a network of this class."""
    mapped = kind._model_mapping.get(type(network.config), None)
    return type(network) in (mapped if isinstance(mapped, tuple) else (mapped,))


def load_weights(kind: Any, source: str, **options: Any) -> Any:
    """Returns `kind.from_pretrained(source)`, of a Hub name at the commit that it is identified by.

    Raises:
        HiesError: it cannot be loaded, or holds an adapter.
    """
    if kind not in PROCESSORS.values():
        check_no_adapter(source)
        options["use_safetensors"] = True
    try:
        if commit := commit_of(source):
            options["revision"] = commit
        elif not Path(source).exists():  # the Hub may give it the next moment, under an identity without a commit
            raise FileNotFoundError(source)
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise HiesError(
            f"{source!r} is no folder with a model in safetensors, and the Hugging Face Hub cannot be reached; give a "
            "local folder (model.source=DIR), or connect to the Hub once."
        ) from error


def _from_architecture(model: Model, options: dict[str, Any]) -> PreTrainedModel:
    architecture = model.architecture or {}
    kind = architecture.get("model_type")
    if kind not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(kind), CONFIG_MAPPING.keys(), 1)
        expected = f"did you mean {close[0]}?" if close else "it must be a type that transformers knows"
        raise ParameterError("architecture.model_type", kind, expected)
    _check_names(architecture, AutoConfig.for_model(str(kind)))
    try:
        return NETWORKS[model.modality].from_config(AutoConfig.for_model(**architecture, **options))
    except Exception as error:  # each architecture has its own way to say that its numbers do not go together
        if is_out_of_memory(error):
            raise
        raise ParameterError(
            "architecture", architecture, f"no {kind} can be built of it ({first_line(error)})"
        ) from error


def _check_names(options: Mapping[str, Any], config: PreTrainedConfig, within: str = "architecture") -> None:
    """Refuses options that the configuration would keep without any effect, also those of its parts."""
    for name, value in options.items():
        if not hasattr(config, name) and name not in NOT_IN_CONFIGURATIONS:
            close = difflib.get_close_matches(name, [*config.to_dict(), *config.attribute_map], 1)
            expected = f"did you mean {close[0]}?" if close else f"a {config.model_type} has no such option"
            raise ParameterError(f"{within}.{name}", value, expected)
        if isinstance(value, Mapping) and isinstance(part := getattr(config, name, None), PreTrainedConfig):
            part = AutoConfig.for_model(value["model_type"]) if value.get("model_type") in CONFIG_MAPPING else part
            _check_names(value, part, f"{within}.{name}")


def _with_new_classifier(kind: Any, source: str, options: dict[str, Any]) -> PreTrainedModel:
    """Returns pretrained weights; a classifier for other classes that they come with is replaced.

    Raises:
        HiesError: other weights do not fit either, and would be drawn at random.
    """
    if holds_pruned(Path(source)):
        return _pruned_with_classifier(kind, source, options)
    network, report = load_weights(kind, source, ignore_mismatched_sizes=True, output_loading_info=True, **options)
    body = f"{network.base_model_prefix}."
    if unfit := sorted(name for name, *_ in report["mismatched_keys"] if name.startswith(body)):
        raise HiesError(
            f"The weights {unfit[0]!r} in {source!r} do not fit its configuration; give a whole checkpoint."
        )
    return network


def _pruned_with_classifier(kind: Any, source: str, options: dict[str, Any]) -> PreTrainedModel:
    """Returns a pruned model whose classifier is a new one, unless it has as many outputs already."""
    pruned = load_pruned(source)
    outputs = pruned.config.num_labels
    pruned.config.update(options)
    if _is_of(kind, pruned) and pruned.config.num_labels == outputs:
        return pruned
    network = kind.from_config(copy.deepcopy(pruned.config), attn_implementation="eager")  # the body of it goes
    setattr(network, network.base_model_prefix, pruned.base_model)
    network.config = pruned.config
    settle_counts(network)
    return network
