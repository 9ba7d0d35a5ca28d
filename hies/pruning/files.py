"""A pruned model on disk: what transformers saves, and a small JSON record of the removed heads."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from hies.errors import HiesError, printable
from hies.heads.sites import Removed
from hies.heads.weights import check_not_quantised, check_weights_are_here
from hies.pruning.card import own_card, write_card
from hies.pruning.counts import dense_counts, set_counts, settle_counts
from hies.pruning.folder import (
    CONFIG,
    RECORD,
    Files,
    check_small_files,
    check_weights,
    finish_interrupted,
    read_record,
    replacing_model,
    weights_of,
    write_record,
)  # fmt: skip
from hies.pruning.headless import Constant
from hies.pruning.limits import Weights, building_at_most, check_config, check_size
from hies.pruning.loadable import check_loadable
from hies.pruning.removal import check_no_adapters, cut, pruned_heads
from hies.pruning.transformers4 import SAID, cut_filled, heads_by_site, of_full_size, record_of, says_pruned
from hies.storage import GENERATION, locking, save_weights

HUB_OPTIONS = {"revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder", "proxies"}
DECIDED = {  # by `load_pruned` itself
    "config", "use_safetensors", "trust_remote_code", "output_loading_info", "state_dict", "variant", "gguf_file",
    "adapter_kwargs", "ignore_mismatched_sizes",
}  # fmt: skip
LONGEST_REASON = 300  # characters of what others say in an error


def save_pruned(model: PreTrainedModel, folder: str | Path, metrics: Mapping[str, object] | None = None) -> bool:
    """Saves a model made by `hies.prune`: configuration, safetensors, the record of what was removed, and a model card.

    Where the configuration can say it (the same number of heads in every layer, and an architecture that takes it), it
    says so, and plain `from_pretrained` loads the folder too. A tokenizer or processor is saved by its
    `save_pretrained`. Another process may load from the folder or save into it meanwhile: it finds one whole model.

    Args:
        model: to be saved.
        folder: where to; an earlier model in it is replaced when the new one is complete.
        metrics: of the model, name -> value, for the model card.

    Returns:
        True if plain `from_pretrained` loads the folder, which was tried; the model card says it too.

    Raises:
        HiesError: nothing has been pruned, the model has adapters (merge them first), its weights are offloaded or
            quantised, its class is not one of transformers, its configuration builds another model, or the folder
            cannot be written.
    """
    removed = check_savable(model)
    folder = Path(folder)
    settle_counts(model)  # what was cut in a part of it, its configuration may not say
    plain = bool(dense_counts(model))
    try:
        with replacing_model(folder) as place:
            _write(model, removed, place)
            if own_card(folder):
                write_card(place, model, plain, metrics)
    except OSError as error:
        reason = error.strerror or error
        raise HiesError(f"{folder} cannot be written ({reason}); what it held before is left.") from error
    return plain


def check_savable(model: PreTrainedModel) -> Removed:
    """Returns the heads that have been removed from a model, or raises the HiesError with which it cannot be saved."""
    check_no_adapters(model)
    check_weights_are_here(model, "hies.save_pruned")
    check_not_quantised(model, "hies.save_pruned")
    removed = pruned_heads(model)
    if not removed:
        raise HiesError(f"This {type(model).__name__} has all its heads; model.save_pretrained saves it.")
    _check_class(type(model))
    check_loadable(model, removed)
    return removed


def _write(model: PreTrainedModel, removed: Removed, place: Path) -> None:
    # Some architectures are saved in a format that they were published in, with other names and rows in another order.
    # No such name is known for what is left of a layer without heads, nor an order of fewer heads.
    try:
        save_weights(model, place, save_original_format=not any(isinstance(m, Constant) for m in model.modules()))
    except RuntimeError:
        save_weights(model, place, save_original_format=False)
    write_record(place, type(model).__name__, dense_counts(model), removed)


def load_pruned(source: str | Path, **options: Any) -> PreTrainedModel:
    """Loads what `save_pruned` wrote. The weights are read once, into a model that was never larger than they are.

    Only the files that the record names are read, whatever else lies in the folder, such as adapters. Nothing in them
    is run as code. A folder in which transformers 4 saved a pruned model is loaded too.

    Args:
        source: a folder, or a repository on the Hub.
        options: of transformers' `from_pretrained`, such as dtype, device_map, attn_implementation, revision; none that
            changes the configuration, which is that of the folder. What goes to the disk needs `offload_folder`.

    Raises:
        HiesError: no record, a record that cannot be read, one that does not fit the configuration or the tensors, or
            files that were changed after they were written.
    """
    if decided := sorted(DECIDED & options.keys()):
        raise HiesError(f"{decided[0]} is no option of load_pruned, which decides it itself.")
    where = {name: options.pop(name) for name in HUB_OPTIONS & options.keys()}
    files = Files(source, where)
    finish_interrupted(files.folder)
    before = files.state()
    try:
        model = _load(files, dict(options))
    except HiesError:
        if files.state() == before:
            raise
    else:
        if files.state() == before:
            return model
    with locking(files.folder, shared=True) as held:  # somebody wrote meanwhile, and is waited for
        before = files.state()
        model = _load(files, options)
        if held or files.state() == before:
            return model
    raise HiesError(f"{files.source} was written again while it was loaded; load it when nobody saves into it.")


def _load(files: Files, options: dict[str, Any]) -> PreTrainedModel:
    with _in_a_sentence(files.source, ", ".join(sorted(options))):
        is_ours = RECORD in files or not says_pruned(files)
        record = read_record(files) if is_ours else record_of(files)
        base = _class_named(record["model_class"])
        weights = Weights([files[name] for name in weights_of(files, record)])
        if not weights:
            raise ValueError("it has no safetensors")
        check_small_files(files, record)
        options["config"] = _read_config(files, base, record, weights)
        named = files if record["files"] is None else record["files"]
        if "generation_config" not in options and GENERATION in named:
            options["generation_config"] = GenerationConfig.from_dict(files.json(GENERATION))
        filled: Removed = {}  # sites of transformers 4 whose matrices kept their size

        def remove(built: PreTrainedModel) -> None:
            removed = record["removed"]
            if not is_ours:
                removed = heads_by_site(built, removed)
                filled.update(of_full_size(built, removed, weights))
            cut(built, {site: heads for site, heads in removed.items() if site not in filled})

        smaller = _smaller(base, remove, weights, lambda: check_weights(files, record))
        options.update(state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True)
        model, report = smaller.from_pretrained(None, **options)
        _check_report(report, RECORD if is_ours else SAID)
        model.__class__ = base
        cut_filled(model, filled)
        settle_counts(model)
        model.name_or_path = model.config.name_or_path = files.source
        return model


@contextlib.contextmanager
def _in_a_sentence(source: str, options: str) -> Iterator[None]:
    """Raises any error of the block as HiesError: what a folder may hold fails anywhere in building and loading."""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if isinstance(error, TypeError) and options:
            raise HiesError(f"load_pruned cannot take one of the options {options}: {reason}.") from error
        whole = isinstance(error, HiesError) and source in reason
        raise HiesError(reason if whole else f"{source} cannot be loaded: {reason.rstrip('.')}.") from error


def _reason(error: Exception) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)[:LONGEST_REASON]


def _smaller(base: Any, remove: Callable[[Any], None], weights: Weights, check: Callable[[], None]) -> Any:
    """Returns the class of the pruned model while it is built and loaded.

    Args:
        base: the class of transformers.
        remove: cuts heads out of the dense model.
        weights: that will be loaded.
        check: is called when the model fits the weights, so that no time is spent on others.
    """

    def build(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        with building_at_most(weights):
            base.__init__(self, *args, **kwargs)
        remove(self)
        check_size(self, weights)
        check()
        # What `save_pretrained` leaves out is computed; anything else would be drawn at random without a word.
        self._keys_to_ignore_on_load_missing = list(map(re.escape, self._keys_to_ignore_on_save or ()))

    def initialize(self: PreTrainedModel) -> None:
        with _aside(self):
            base.initialize_weights(self)

    names = {"__init__": build, "initialize_weights": initialize, "__module__": base.__module__}
    return type(base.__name__, (base,), names)


@contextlib.contextmanager
def _aside(model: nn.Module) -> Iterator[None]:
    """Keeps the parameters that are loaded out of what the block does: it would draw their rows for padding anew."""
    stores = [module._parameters for module in model.modules()]
    loaded: list[Any] = [
        (store, name, parameter)
        for store in stores
        for name, parameter in store.items()
        if getattr(parameter, "_is_hf_initialized", False)
    ]
    try:
        for store, name, parameter in loaded:
            substitute: Any = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
            substitute._is_hf_initialized = True
            store[name] = substitute
        yield
    finally:
        for store, name, parameter in loaded:
            store[name] = parameter


def _check_report(report: dict[str, Any], record: str) -> None:
    """Refuses weights that are missing, unexpected or of another shape than the record of removed heads says."""
    for kind, names in report.items():
        if names:
            first = min(map(str, names))
            raise ValueError(f"its weights and its {record} disagree: {kind.replace('_', ' ')} {first}")


def _class_named(name: str) -> type[PreTrainedModel]:
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise HiesError(f"{name} is no model class of transformers {transformers.__version__}; only those are saved.")
    return kind


def _check_class(kind: type[PreTrainedModel]) -> None:
    """Refuses a class of one's own, whatever its name: the record holds the name alone, which loading looks up."""
    if _class_named(kind.__name__) is not kind:
        raise HiesError(
            f"The {kind.__name__} of {kind.__module__} is another than the model class of that name in transformers "
            f"{transformers.__version__}; only those are saved."
        )


def _read_config(files: Files, base: Any, record: Mapping[str, Any], weights: Weights) -> PreTrainedConfig:
    try:
        files.json(CONFIG)  # short enough
        data = check_config(PreTrainedConfig.get_config_dict(files[CONFIG])[0], weights)
        data.pop(SAID, None)  # the record says it
        if (model_type := str(data.get("model_type"))) not in CONFIG_MAPPING:
            raise ValueError(f"its model_type is {model_type!r}, which transformers does not know")
        config = CONFIG_MAPPING[model_type].from_dict(data)
    except Exception as error:
        raise HiesError(f"The {CONFIG} of {files.source} cannot be read: {_reason(error)}") from error
    if not (isinstance(config, base.config_class or PreTrainedConfig) or _is_class_of(model_type, base.__name__)):
        raise HiesError(f"{files.source} is a {model_type} by its {CONFIG}, but said to be a {base.__name__}.")
    config.dtype = config.dtype or weights.dtype
    set_counts(config, record["config"])
    return config


def _is_class_of(model_type: str, name: str) -> bool:
    """Returns True if an auto mapping of transformers gives this class to a model type (InternLM 3 is a LLaMA)."""
    mappings = (value for key, value in vars(modeling_auto).items() if key.endswith("_MAPPING_NAMES"))
    given = (mapping.get(model_type) for mapping in mappings)
    return any(name in (one if isinstance(one, tuple) else (one,)) for one in given)
