"""What is asked of weights before they are read or cut: that they are here, plain numbers, and of one module alone."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from hies.errors import UnsupportedModelError
from hies.heads.projections import CannotPruneError, Projections, cannot_cut, is_quantised, read_projections


def check_weights_are_here(
    model: nn.Module, doing: str, hooked_will_do: bool = False, shapes_will_do: bool = False
) -> None:
    """Raises UnsupportedModelError where weights are on the meta device: offloaded, or never loaded.

    Args:
        model: any.
        doing: what is refused, for the message.
        hooked_will_do: accept those that hooks of accelerate bring in while the model runs.
        shapes_will_do: accept a model of shapes alone, which no hook will fill.
    """
    missing = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    shapes_alone = not hooked and all(weight.is_meta for weight in model.parameters())
    if missing and not ((hooked_will_do and hooked) or (shapes_will_do and shapes_alone)):
        raise UnsupportedModelError(
            f"{doing} needs all weights in memory, and {missing!r} of this {type(model).__name__} is on the meta "
            "device (offloaded to a disk or the CPU, or never loaded); load the model without offloading."
        )


def check_not_quantised(model: nn.Module, doing: str) -> None:
    """Raises UnsupportedModelError where a module's weights are quantised or sharded."""
    if (name := next((name for name, module in model.named_modules() if is_quantised(module)), None)) is not None:
        raise UnsupportedModelError(f"{doing} takes plain weights, and {name!r} is quantised or sharded.")


def check_unshared(model: nn.Module, sites: Mapping[str, Projections]) -> None:
    """Raises UnsupportedModelError for weights of heads that another module uses as well: it would lose its heads too.

    Args:
        model: any.
        sites: the projections of its sites, by name.
    """
    for site, reason in _shared(model, sites).items():
        raise cannot_cut(model, site, reason)


def refusals(model: nn.Module, sites: Collection[str]) -> dict[str, str]:
    """Returns why the heads of some sites cannot be cut out, {site: reason}; those of the others can."""
    found: dict[str, Projections] = {}
    refused: dict[str, str] = {}
    for site in sites:
        try:
            found[site] = read_projections(model, site)
        except CannotPruneError as error:
            refused[site] = str(error)
    refused |= _shared(model, found)
    return {site: refused[site] for site in sites if site in refused}


def _shared(model: nn.Module, sites: Mapping[str, Projections]) -> dict[str, str]:
    """Returns the sites among these whose weights another module uses as well, and what to say of each."""
    reasons: dict[str, str] = {}
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    parameters = [one for module in modules for one in module._parameters.values() if one is not None]
    uses = Counter([*modules, *map(_memory, parameters)])
    for site, found in sites.items():
        module: Any = model.get_submodule(site)
        parts = [(part.owner, part.name) for part in (found.query, found.key, found.value, found.output, *found.gates)]
        parts += [(module, name) for name in (*found.joint_norms, *found.head_norms)]
        weights = [(owner, name, weight) for owner, name in parts for weight in getattr(owner, name).parameters()]
        weights += [(parameter.owner, parameter.name, parameter.tensor) for parameter in found.parameters]
        if shared := [name for owner, name, weight in weights if uses[_memory(weight)] > uses[owner]]:
            reasons[site] = f"its {shared[0]} is shared with another module, which would lose its heads too"
    return reasons


def _memory(parameter: Tensor) -> int:
    """Returns what is the same for tied parameters alone."""
    is_plain = type(parameter.data) is Tensor and not parameter.is_meta and parameter.numel()
    return parameter.data_ptr() if is_plain else id(parameter)
