"""Modules that say how many heads they have, and ran, while none of their heads was seen: a warning names them."""

import contextlib
import warnings
from collections.abc import Collection, Iterator
from weakref import WeakSet

from torch import nn

from hies.heads.calls import first_count
from hies.heads.conventions import HEAD_COUNTS
from hies.heads.forwards import INTERFACE, names_reached_by
from hies.heads.own_softmax import NO_ATTENTION, why_not_seen
from hies.heads.recognition import computes_attention, has_parts_of_attention, is_of_library
from hies.heads.sites import is_in

NO_SOFTMAX = "it calls neither torch's softmax nor its scaled_dot_product_attention"
_warned: WeakSet[nn.Module] = WeakSet()


@contextlib.contextmanager
def noting_runs(model: nn.Module) -> Iterator[Collection[nn.Module]]:
    """Collects the modules that may compute attention by themselves and run inside the block."""
    ran: set[nn.Module] = set()

    def note(module: nn.Module, *_: object) -> None:
        ran.add(module)

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if _may_be_attention(module)]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def warn_of_unseen(model: nn.Module, sites: Collection[str], ran: Collection[nn.Module], stacklevel: int) -> None:
    """Warns, once for each module, of those that ran and have heads that are none of the sites', and says why.

    What lies around a site, or in one, is no attention of its own.
    """
    reasons = {
        name: _why(module)
        for name, module in model.named_modules()
        if module in ran and module not in _warned and not any(is_in(name, site) or is_in(site, name) for site in sites)
    }
    reasons = {name: why for name, why in reasons.items() if why}
    if reasons:
        _warned.update(model.get_submodule(name) for name in reasons)
        parts = [f"{name} ({type(model.get_submodule(name)).__name__}): {why}" for name, why in reasons.items()]
        warnings.warn(
            "The heads of some modules that may compute attention are not seen, so that they are neither scored "
            f"nor cut: {'; '.join(parts)}.",
            stacklevel=stacklevel + 1,
        )


def _may_be_attention(module: nn.Module) -> bool:
    if computes_attention(module):
        return True
    is_known = is_of_library(module) or INTERFACE in names_reached_by(module)
    return not is_known and first_count(module, HEAD_COUNTS) is not None and has_parts_of_attention(module)


def _why(module: nn.Module) -> str:
    """Returns why the attention of a module that ran is not seen; "" where it is, and where there is none."""
    if not computes_attention(module):
        return NO_SOFTMAX
    why = why_not_seen(module)
    return "" if why.startswith(NO_ATTENTION) and not has_parts_of_attention(module) else why
