"""Folders in which transformers 4 saved a pruned model: `pruned_heads` in config.json names the heads of each layer.

Its models were built without these heads, counted as in the dense one. The shapes of a layer's matrices tell whether
they have been cut, or kept their size, as where zeros were filled in so that plain `from_pretrained` reads them.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hies.heads.matrices import CannotPruneError, matrix
from hies.heads.projections import Projections, find_projections, read_projections
from hies.heads.sites import Removed
from hies.heads.weights import check_weights_are_here
from hies.pruning.folder import CONFIG, RECORD, Files
from hies.pruning.limits import Weights
from hies.pruning.removal import cut

SAID = "pruned_heads"
LAYER = re.compile("0|[1-9][0-9]{0,4}")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONVERT = (
    "import glob, torch; from safetensors.torch import save_file as save; save({k: v.clone() for f in "
    "glob.glob('pytorch*.bin') for k, v in torch.load(f).items()}, 'model.safetensors', {'format': 'pt'})"
)


def holds_pruned(folder: Path) -> bool:
    """Returns True for the folder of a pruned model that `hies.save_pruned` or transformers 4 wrote."""
    return (folder / RECORD).is_file() or (folder.is_dir() and says_pruned(Files(folder, {})))


def says_pruned(files: Files) -> bool:
    """Returns True if a configuration names pruned heads, rightly or not."""
    try:
        said = files.json(CONFIG).get(SAID)
    except (OSError, ValueError, AttributeError):  # which reading the configuration says
        return False
    return any(said.values()) if isinstance(said, Mapping) else bool(said)


def record_of(files: Files) -> dict[str, Any]:
    """Returns what `hies.pruning.folder.read_record` does, but for `removed`: {layer: its removed heads}.

    Raises:
        ValueError: the configuration says it in no way that transformers 4 did, or the weights are pickled.
    """
    config = files.json(CONFIG)
    if config.get("layer_norm_type") == "no_norm":  # nn_pruning's, which transformers computes as norms
        raise ValueError("its layer_norm_type is 'no_norm', which transformers does not know")
    if any(name in files for name in PICKLED) and not any(name in files for name in SAFETENSORS):
        raise ValueError(f'its weights are pickled; if you trust them, run in the folder: python -c "{CONVERT}"')
    names = config.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise ValueError(f"its {CONFIG} names no class under architectures")
    return {"model_class": names[0], "config": {}, "removed": _layers(config[SAID]), "files": None}


def _layers(said: Any) -> dict[int, list[int]]:
    if not isinstance(said, Mapping):
        raise ValueError(f"its {SAID} is {said!r}, and not the heads of each layer")
    for layer, heads in said.items():
        if not LAYER.fullmatch(layer) or not isinstance(heads, list) or any(type(head) is not int for head in heads):
            raise ValueError(
                f"its {SAID} has {heads!r} for {layer!r}, and not a list of heads for the number of a layer"
            )
        if len(set(heads)) < len(heads):
            raise ValueError(f"its {SAID} names a head of layer {layer} twice: {heads}")
    return {int(layer): sorted(heads) for layer, heads in said.items() if heads}


def heads_by_site(model: nn.Module, layers: Mapping[int, list[int]]) -> Removed:
    """Returns the removed heads of each site: the one attention module with the layer's number in its name.

    Raises:
        ValueError: there is no such module, or several, or it has no such heads, or no others.
    """
    numbered: dict[int, list[str]] = defaultdict(list)
    for name, _ in model.named_modules():
        numbers = [int(part) for part in name.split(".") if part.isdecimal()]
        if len(numbers) == 1 and _has_heads(model, name):
            numbered[numbers[0]].append(name)
    removed: Removed = {}
    for layer, heads in layers.items():
        if len(sites := numbered[layer]) != 1:
            several = (
                f"several attention modules ({', '.join(sites)})" if sites else "no attention module of that number"
            )
            raise ValueError(f"its {SAID} names layer {layer}, where {type(model).__name__} has {several}")
        count = find_projections(model, sites[0]).heads
        if outside := [head for head in heads if not 0 <= head < count]:
            raise ValueError(
                f"its {SAID} names head {outside[0]} of layer {layer}, which has the heads 0 to {count - 1}"
            )
        if len(heads) == count:
            raise ValueError(f"its {SAID} names all {count} heads of layer {layer}, which leaves nothing to load")
        removed[sites[0]] = heads
    return removed


def _has_heads(model: nn.Module, name: str) -> bool:
    try:
        return bool(read_projections(model, name))
    except CannotPruneError:
        return False


def of_full_size(model: PreTrainedModel, removed: Removed, weights: Weights) -> Removed:
    """Returns the part of what is removed that has not been cut from the weights.

    Args:
        model: dense, maybe on the meta device.
        removed: from its sites.
        weights: that will be loaded into it. Matrices that have other names here count as cut, which loading checks.

    Raises:
        ValueError: some matrices of a site have their full size and others have not.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {site: heads for site, heads in removed.items() if _is_whole(model, site, names, weights)}


def _is_whole(model: PreTrainedModel, site: str, names: Mapping[int, str], weights: Weights) -> bool:
    found, prefix = find_projections(model, site), f"{model.base_model_prefix}."
    whole: dict[bool, str] = {}
    for part in (found.query, found.key, found.value, found.output):
        weight: Any = part.module.weight
        name = names[id(weight)]
        saved = [weights[one] for one in (name, name.removeprefix(prefix), prefix + name) if one in weights]
        whole[bool(saved) and tuple(saved[0].get_shape()) == tuple(weight.shape)] = name
    if len(whole) == 2:
        raise ValueError(f"{whole[True]} has rows or columns for all heads, and {whole[False]} for some")
    return True in whole


def cut_filled(model: PreTrainedModel, removed: Removed) -> None:
    """Cuts heads out of matrices of full size, where that changes nothing.

    Raises:
        ValueError: one of these heads gives something else than zeros: it cannot be told whether it was to be there.
    """
    if not removed:
        return
    check_weights_are_here(model, "hies.load_pruned")
    for site, heads in removed.items():
        found = find_projections(model, site)
        if alive := [head for head in heads if not _gives_zeros(found, head)]:
            raise ValueError(
                f"its {SAID} names head {alive[0]} of {site}, but its weights are there, and not zero; take "
                f"{SAID} out of {CONFIG} for a model with all heads, and cut them by hies.prune if they are to go"
            )
    cut(model, removed)


def _gives_zeros(found: Projections, head: int) -> bool:
    if not matrix(found.output.module)[:, found.output.rows[head]].any():
        return True
    rows, bias = found.value.rows[found.groups[head]], getattr(found.value.module, "bias", None)
    return not (matrix(found.value.module)[rows].any() or (bias is not None and bias[rows].any()))
