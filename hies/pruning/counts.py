"""The head counts in a pruned model's configuration: those that are left, where its architecture can build that."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hies.errors import HiesError
from hies.heads.configuration import SiteConfig, requires_hies_attention
from hies.heads.forwards import names_used_by
from hies.heads.pruned import PrunedHeads

COUNTS = ("num_attention_heads", "num_key_value_heads", "head_dim")
DENSE = "hies_dense_counts"  # attribute of a pruned module whose configuration says other counts than the dense one's
Counts = dict[str, int | None]  # setting, after those that its configuration lies in ("text_config.head_dim") -> value


def settle_counts(model: nn.Module) -> None:
    """Lets the configuration say the heads that are left if plain `from_pretrained` builds this model from it.

    Else it keeps the dense counts, and continuous batching, which goes by them, is refused where they are wrong.
    """
    if not isinstance(model, PreTrainedModel):
        return
    _write(model, dense_counts(model))
    for _, config, _, module in _pruned(model):
        set_counts(config, vars(module).pop(DENSE, {}))
    vars(model).pop("init_continuous_batching", None)
    left = _counts_left(model)
    if left and not requires_hies_attention(model) and _builds_alike(model, left):
        dense = {key: getattr(_owner(model.config, key), key.split(".")[-1]) for key in left}
        for path, _, _, module in _pruned(model):  # which keep them in a body that is taken out, and in another model
            vars(module)[DENSE] = _within(path, dense)
        _write(model, left)
    elif any(record.groups or len(record.key_heads) != record.dense_key_heads for _, _, record, _ in _pruned(model)):
        vars(model)["init_continuous_batching"] = _refuse_continuous_batching


def own_configuration(model: nn.Module) -> None:
    """Gives a model a configuration of its own: what is written into the one that it has, another model would read."""
    if not isinstance(model, PreTrainedModel):
        return
    pairs = zip(_configurations(model.config), _configurations(copy.deepcopy(model.config)), strict=True)
    own = {id(before): after for (_, before), (_, after) in pairs}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, SiteConfig):
                vars(value)["config"] = own.get(id(value.config), value.config)
            elif id(value) in own:
                vars(module)[name] = own[id(value)]


def dense_counts(model: PreTrainedModel) -> Counts:
    """Returns what the dense model's configuration said in place of the counts that are left; {} where it says so."""
    own = [(path, vars(module).get(DENSE, {})) for path, _, _, module in _pruned(model) if path is not None]
    return {path + name: value for path, counts in own for name, value in counts.items()}


def set_counts(config: PreTrainedConfig, counts: Mapping[str, int | None]) -> None:
    """Writes counts into a configuration and those that lie in it.

    Raises:
        HiesError: a setting lies in no configuration; the counts may come from a file.
    """
    for setting, value in counts.items():
        setattr(_owner(config, setting), setting.split(".")[-1], value)


def _owner(config: PreTrainedConfig, setting: str) -> PreTrainedConfig:
    for name in setting.split(".")[:-1]:
        if name not in config.sub_configs:
            raise HiesError(f"A {type(config).__name__} has no configuration {name!r} in it.")
        config = getattr(config, name)
    return config


def _write(model: PreTrainedModel, counts: Counts) -> None:
    """Writes counts into the configuration, and into copies of it that modules have (the encoder of T5)."""
    set_counts(model.config, counts)
    for path, config, _, _ in _pruned(model):
        set_counts(config, _within(path, counts))


def _within(path: str | None, counts: Counts) -> Counts:
    """Returns the counts that lie in one configuration, by their names there."""
    return {name: counts[path + name] for name in COUNTS if path is not None and path + name in counts}


def _pruned(model: PreTrainedModel) -> Iterator[tuple[str | None, PreTrainedConfig, PrunedHeads, nn.Module]]:
    """Yields where each pruned module's configuration lies in the model's, that configuration, the record, the module.

    The place is None where it is not certain.
    """
    places = list(_configurations(model.config))
    for module in model.modules():
        if record := PrunedHeads.of(module):
            site: Any = getattr(module, "config", None)  # what computes its softmax by itself may have none
            config = site.config if isinstance(site, SiteConfig) else site
            alike = [(path, one) for path, one in places if type(one) is type(config)]
            same = [path for path, one in alike if one is config] or [path for path, _ in alike]
            yield same[0] if len(same) == 1 else None, config, record, module


def _counts_left(model: PreTrainedModel) -> Counts:
    """Returns the counts of a model whose sites of one configuration are alike; nothing where they differ."""
    counts: Counts = {}
    for path, config, record, _ in _pruned(model):
        if path is None or not record.heads or not _says(config, "head_dim"):
            return {}
        width = config.head_dim or config.hidden_size // config.num_attention_heads
        for name, value in zip(COUNTS, (len(record.heads), len(record.key_heads), width), strict=True):
            if _says(config, name) and counts.setdefault(path + name, value) != value:
                return {}
    return counts


def _says(config: PreTrainedConfig, name: str) -> bool:
    """Returns True if a configuration has one such setting for all layers (Gemma 4 raises an error of its own)."""
    try:
        return hasattr(config, name)
    except Exception:
        return False


def _configurations(config: PreTrainedConfig, path: str = "") -> Iterator[tuple[str, PreTrainedConfig]]:
    yield path, config
    for name in config.sub_configs:
        if (inner := getattr(config, name, None)) is not None:
            yield from _configurations(inner, f"{path}{name}.")


def built_with(model: PreTrainedModel, counts: Mapping[str, int | None]) -> PreTrainedModel | None:
    """Returns the shapes of what loading builds from a model's configuration with these counts.

    None where the numbers do not go together, or the class is built in another way.
    """
    config = copy.deepcopy(model.config)
    try:
        set_counts(config, counts)
        config = type(config).from_dict(config.to_dict())  # what the file says of it, which checks the numbers
        with torch.device("meta"):
            return type(model)(config)
    except Exception:  # of whatever kind
        return None


def _builds_alike(model: PreTrainedModel, counts: Counts) -> bool:
    """Returns True if the architecture builds a model of the same structure from a configuration with these counts."""
    built = built_with(model, counts)
    return built is not None and _structure(built) == _structure(model)


def _structure(model: nn.Module) -> dict[str, Any]:
    """Returns the shapes of a model's tensors, and the numbers that its modules compute with, such as a scale."""
    found: dict[str, Any] = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for site, module in model.named_modules():
        used = names_used_by(module) - {"training"}
        values = {name: value for name, value in vars(module).items() if name in used and name[0] != "_"}
        found |= {f"{site}.{name}": one for name, one in values.items() if type(one) in (bool, int, float)}
    return found


def _refuse_continuous_batching(*args: Any, **options: Any) -> None:
    raise HiesError(
        "Continuous batching keeps as many key/value heads for every layer as the configuration says, and that of this "
        "model cannot say what is left; use model.generate, or remove the same number of whole groups in every layer."
    )
