"""Weights and processors of models, from the Hugging Face Hub, a folder, or drawn at random."""

import difflib
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from hies.errors import HiesError, ParameterError
from hies.evaluation.models import Model, check_fit
from hies.tasks.base import Task

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


def build(
    model: Model, task: Task, data_root: Path | None = None, start: str | None = None, processor: Any = None
) -> PreTrainedModel:
    """Returns a model before fine-tuning, with the outputs that the task needs, and the rest from its weights.

    Args:
        model: where the weights come from.
        task: the task.
        data_root: the folder of local copies of data sets, which may name the classes.
        start: a checkpoint of another task; its classifier is replaced.
        processor: what a model that is built from an architecture reads its tokens with.
    """
    check_fit(model, task)
    if model.asks_as_it_stands(task):
        return load_network(model, model.weights_source())
    options = task.network_options(data_root, model.architecture or {}, processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.finetuning(task).seed)  # what is new is drawn at random
        if start is not None:
            return load_weights(NETWORKS[model.modality], start, ignore_mismatched_sizes=True, **options)
        if model.architecture is not None:
            return _from_architecture(model, options)
        return _with_new_classifier(NETWORKS[model.modality], model.weights_source(), options)


def load_network(model: Model, source: str) -> PreTrainedModel:
    """Returns the weights of a checkpoint, in the model's dtype."""
    return load_weights(NETWORKS[model.modality], source, dtype=getattr(torch, model.dtype))


def load_weights(kind: Any, source: str, **options: Any) -> Any:
    """Returns `kind.from_pretrained(source)`; raises HiesError with one sentence where that fails."""
    checked = {} if kind in PROCESSORS.values() else {"use_safetensors": True}
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **checked, **options)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise HiesError(
            f"{source!r} is no folder with a model in safetensors, and the Hugging Face Hub cannot be reached; give a "
            "local folder (model.source=DIR), or connect to the Hub once."
        ) from error


def _from_architecture(model: Model, options: dict[str, Any]) -> PreTrainedModel:
    architecture = model.architecture or {}
    kind = architecture.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        close = difflib.get_close_matches(str(kind), transformers.CONFIG_MAPPING.keys(), 1)
        expected = f"did you mean {close[0]}?" if close else "it must be a type that transformers knows"
        raise ParameterError("architecture.model_type", kind, expected)
    return NETWORKS[model.modality].from_config(AutoConfig.for_model(**architecture, **options))


def _with_new_classifier(kind: Any, source: str, options: dict[str, Any]) -> PreTrainedModel:
    """Returns pretrained weights; a classifier for other classes that they come with is replaced.

    Raises:
        HiesError: other weights do not fit either, and would be drawn at random.
    """
    network, report = load_weights(kind, source, ignore_mismatched_sizes=True, output_loading_info=True, **options)
    body = f"{network.base_model_prefix}."
    if unfit := sorted(name for name, *_ in report["mismatched_keys"] if name.startswith(body)):
        raise HiesError(
            f"The weights {unfit[0]!r} in {source!r} do not fit its configuration; give a whole checkpoint."
        )
    return network
