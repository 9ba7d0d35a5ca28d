"""A pruned model on disk: what transformers saves, and a small JSON record of the removed heads."""

import json
import tempfile
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from hies.errors import HiesError
from hies.heads.sites import Removed
from hies.heads.weights import check_not_quantised, check_weights_are_here
from hies.pruning.counts import COUNTS, dense_counts, set_counts, settle_counts
from hies.pruning.removal import check_no_adapters, cut, pruned_heads
from hies.storage import SUMS, check_checksums, digest, write_checksums

RECORD = "pruned_heads.json"
RECORD_FORMAT = 1
HUB_OPTIONS = {"revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder"}
DECIDED = {"config", "use_safetensors", "trust_remote_code", "output_loading_info"}  # by `load_pruned` itself


def save_pruned(model: PreTrainedModel, folder: str | Path) -> None:
    """Saves a model made by `hies.prune`: configuration, safetensors, and the record of what was removed.

    Where the configuration can say it (the same number of heads in every layer, and an architecture whose head width is
    a setting, such as LLaMA), it says so, and plain `from_pretrained` loads the folder too. A tokenizer or processor is
    saved by its `save_pretrained`.

    Raises:
        HiesError: nothing has been pruned, the model has adapters (merge them first), its weights are offloaded or
            quantised, its class is not one of transformers, or the folder cannot be written; an earlier model in it is
            replaced only when the new one is complete.
    """
    check_no_adapters(model)
    check_weights_are_here(model, "hies.save_pruned")
    check_not_quantised(model, "hies.save_pruned")
    removed = pruned_heads(model)
    if not removed:
        raise HiesError(f"This {type(model).__name__} has all its heads; model.save_pretrained saves it.")
    _class_named(type(model).__name__)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as place:
            _write(model, removed, Path(place))
            _move(Path(place), folder)
    except OSError as error:
        reason = error.strerror or error
        raise HiesError(f"{folder} cannot be written ({reason}); what it held before is left.") from error


def _write(model: PreTrainedModel, removed: Removed, folder: Path) -> None:
    model.save_pretrained(folder)
    write_checksums(folder, "*.safetensors")
    kind, config = type(model).__name__, dense_counts(model)
    record = {"format": RECORD_FORMAT, "model_class": kind, "config": config, "removed": removed}
    record["digest"] = _digest(record)
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _move(place: Path, folder: Path) -> None:
    """Puts a model that is written in the place of an earlier one; without its record a folder is refused."""
    (folder / RECORD).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    for file in sorted(place.iterdir(), key=lambda file: file.name == RECORD):  # the record last
        file.replace(folder / file.name)


def _digest(record: dict[str, Any]) -> str:
    """Returns what differs for a record that was edited, or cut short."""
    return digest({name: value for name, value in record.items() if name != "digest"})


def load_pruned(source: str | Path, **options: Any) -> PreTrainedModel:
    """Loads what `save_pruned` wrote. The weights are read once, into a model that was never larger than they are.

    Args:
        source: a folder, or a repository on the Hub.
        options: of transformers' `from_pretrained`, such as dtype, device_map, attn_implementation, revision; none that
            changes the configuration, which is that of the folder.

    Raises:
        HiesError: no record, a record that cannot be read, one that does not fit the configuration or the tensors, or
            weights in a folder that were changed after they were written.
    """
    if decided := sorted(DECIDED & options.keys()):
        raise HiesError(f"{decided[0]} is no option of load_pruned, which decides it itself.")
    where = {name: options[name] for name in HUB_OPTIONS & options.keys()}
    record = _read_record(str(source), where)
    try:
        check_checksums(Path(source))  # changed weights load as well as others
    except ValueError as error:
        raise HiesError(f"In {source} {error}; get it again, or remove {SUMS} if the change was meant.") from error
    base = _class_named(record["model_class"])
    config = _read_config(source, where)
    if not isinstance(config, base.config_class or PreTrainedConfig):
        raise HiesError(f"{source} is a {config.model_type} by its config.json, but a {base.__name__} by its {RECORD}.")
    set_counts(config, record["config"])

    def build(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        cut(self, record["removed"])

    smaller: Any = type(base.__name__, (base,), {"__init__": build, "__module__": base.__module__})
    decided_here: dict[str, Any] = {"config": config, "use_safetensors": True, "trust_remote_code": False}
    try:
        model, report = smaller.from_pretrained(source, output_loading_info=True, **options, **decided_here)
    except (RuntimeError, OSError, SafetensorError, ZeroDivisionError) as error:
        raise HiesError(f"The safetensors in {source} and its {RECORD} disagree: {_first_line(error)}") from error
    except TypeError as error:
        if not options:
            raise
        several = ", ".join(sorted(options))
        raise HiesError(f"load_pruned cannot take one of the options {several}: {_first_line(error)}.") from error
    _check_report(source, report)
    model.__class__ = base
    settle_counts(model)
    return model


def _check_report(source: str | Path, report: dict[str, Any]) -> None:
    """Refuses weights that are missing, unexpected or of another shape than the record says."""
    for kind, names in report.items():
        if names:
            first = min(map(str, names))
            raise HiesError(f"The weights in {source} and its {RECORD} disagree: {kind.replace('_', ' ')} {first}.")


def _class_named(name: str) -> type[PreTrainedModel]:
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise HiesError(f"{name} is no model class of transformers {transformers.__version__}; only those are saved.")
    return kind


def _read_config(source: str | Path, where: dict[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise HiesError(f"The config.json of {source} cannot be read: {_first_line(error)}") from error


def _read_record(source: str, where: dict[str, Any]) -> dict[str, Any]:
    try:
        path = cached_file(source, RECORD, **where)
    except OSError as error:
        raise HiesError(
            f"{source} has no {RECORD}, so it is no model saved by hies.save_pruned, which alone saves a pruned one; "
            "from_pretrained loads a model with all its heads."
        ) from error
    try:
        return _checked(json.loads(Path(str(path)).read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HiesError(f"{RECORD} in {source} cannot be read: {_first_line(error)}") from error


def _checked(record: Any) -> dict[str, Any]:
    """Returns the record if every value is of the kind that it should be."""
    if record["format"] != RECORD_FORMAT:
        raise ValueError(f"its format is {record['format']!r}, this version reads {RECORD_FORMAT}")
    if record["digest"] != _digest(record):
        raise ValueError("it was changed after it was written")
    removed: Removed = {str(site): [int(head) for head in heads] for site, heads in record["removed"].items()}
    config = {name: value for name, value in record["config"].items() if name.split(".")[-1] in COUNTS}
    if any(value is not None and type(value) is not int for value in config.values()):
        raise ValueError("its config holds a value that is no number")
    return {"model_class": str(record["model_class"]), "config": config, "removed": removed}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
