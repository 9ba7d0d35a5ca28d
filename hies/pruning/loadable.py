"""Whether what is saved can be loaded: loading builds a model from the configuration, which may have been changed."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hies.errors import HiesError
from hies.heads.sites import Removed
from hies.pruning.counts import built_with, dense_counts
from hies.pruning.removal import cut

WHAT_HELPS = "let model.config say what was changed (such as config.num_labels or config.num_hidden_layers), or undo it"
Tensors = dict[str, Tensor]


def check_loadable(model: PreTrainedModel, removed: Removed) -> None:
    """Refuses a model that is another than its configuration builds: no folder of it could be loaded.

    Shapes alone are built, so that it takes neither memory nor time.

    Args:
        model: pruned.
        removed: from it, site -> heads, counted as in the dense one.

    Raises:
        HiesError: a tensor is missing, unexpected or of another shape, as loading would find.
    """
    here = _tensors(model)  # a model that was cut in part has no tensors to give
    built = built_with(model, dense_counts(model))
    if built is None:
        return
    sites = {name for name, _ in built.named_modules()}
    try:
        cut(built, {site: heads for site, heads in removed.items() if site in sites})
    except HiesError as error:
        reason = str(error).rstrip(".")
    else:
        unknown = [f"its configuration builds no {site}" for site in removed if site not in sites]
        reason = next(_differences(here, built), "") or "".join(unknown[:1])
    if reason:
        raise HiesError(f"hies.load_pruned could not load this {type(model).__name__}: {reason}; {WHAT_HELPS}.")


def _differences(here: Tensors, built: PreTrainedModel) -> Iterator[str]:
    """Yields what loading would find to be of another shape, unexpected or missing."""
    there = _tensors(built)
    for name in sorted(here.keys() & there.keys()):
        if here[name].shape != there[name].shape:
            shapes = [tuple(tensors[name].shape) for tensors in (here, there)]
            yield f"{name} is {shapes[0]}, and its configuration builds {shapes[1]}"
    # Loading asks for none of these: tensors that are computed or tied, and buffers that earlier versions saved.
    computed = {*(built._keys_to_ignore_on_save or ()), *(getattr(built, "all_tied_weights_keys", None) or ())}
    buffers = {name for name, _ in built.named_buffers()}
    patterns = built._keys_to_ignore_on_load_unexpected or ()
    for name in _alone(here, there, computed | buffers):
        if not any(re.search(pattern, name) for pattern in patterns):
            yield f"its configuration builds no {name}"
    for name in _alone(there, here, computed):
        yield f"it has no {name}, which its configuration builds"


def _alone(tensors: Tensors, others: Tensors, ignored: Collection[str]) -> list[str]:
    """Returns the names that others lack, but for those of a tensor that has another name: it is saved once."""
    shared = {id(tensor) for name, tensor in tensors.items() if name in others}
    names = tensors.keys() - others.keys() - set(ignored)
    return sorted(name for name in names if id(tensors[name]) not in shared)


def _tensors(model: PreTrainedModel) -> Tensors:
    state: Any = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
