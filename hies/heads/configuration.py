"""What an attention module of a pruned model reads in place of the model's configuration."""

import importlib
from typing import Any

from torch import nn

from hies.errors import UnsupportedModelError
from hies.heads.forwards import names_used_by

NAME_PREFIX = "hies_"
BASES = ("sdpa", "eager")
OURS = {name: NAME_PREFIX + base for base in BASES for name in (base, NAME_PREFIX + base)}


def eager_name(module: nn.Module) -> str:
    """Returns what the modelling file calls its eager attention; some files have several: the one of this module."""
    names = [name for name in names_used_by(module) if name.endswith("eager_attention_forward")]
    return names[0] if names else "eager_attention_forward"


class SiteConfig:
    """The configuration of a pruned attention module; what it does not say is read from, and written to, the model's.

    Attributes:
        config: the model's.
        counts: the numbers of heads that the module reads here.
        is_routed: the module runs through the function of hies.heads.attention, whose names are plain strings here:
            they are constants to torch.compile and to exporters.
        is_required: no other function computes what is left of the module.
        eager: the name of the module's own eager function, which torch.compile need not look for then.
    """

    def __init__(self, module: Any, counts: dict[str, int], is_routed: bool, is_required: bool) -> None:
        config = module.config.config if isinstance(module.config, SiteConfig) else module.config
        own = {"config": config, "counts": counts, "is_routed": is_routed, "is_required": is_required}
        self.__dict__.update(own, eager=eager_name(module))

    @property
    def _attn_implementation(self) -> str:
        name = self.config._attn_implementation
        if self.is_required and name not in OURS:
            raise UnsupportedModelError(
                f"The heads left in this model need the attention implementation 'sdpa' or 'eager', not {name!r}; "
                "call model.set_attn_implementation with one of the two."
            )
        return OURS.get(name, name) if self.is_routed else name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying asks for these before there is a configuration
            raise AttributeError(name)
        return self.counts[name] if name in self.counts else getattr(self.config, name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickles, in whatever process: the function that the module names has to be registered in this one, too."""
        importlib.import_module("hies.heads.attention")  # not above: it imports this module
        self.__dict__.update(state)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.config, name, value)


def requires_hies_attention(model: nn.Module) -> bool:
    """Returns True if some module of a pruned model runs with the function of hies.heads.attention alone."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return any(isinstance(config, SiteConfig) and config.is_required for config in configs)
