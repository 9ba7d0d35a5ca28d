"""Which modules compute a softmax of their own, and which of these say how many heads they have."""

import torch.nn.functional as F
from torch import nn

from hies.heads.calls import first_count
from hies.heads.conventions import HEAD_COUNTS
from hies.heads.forwards import INTERFACE, names_reached_by
from hies.heads.matrices import is_plain_matrix

TORCH_FUNCTIONS = {F.scaled_dot_product_attention.__name__, F.multi_head_attention_forward.__name__}
SEEN = {"softmax", "Softmax", *TORCH_FUNCTIONS}
LIBRARIES = ("transformers", "torch")  # whose own classes were looked at: what has no count there is no attention


def computes_attention(module: nn.Module) -> bool:
    """Returns True for a module that has heads and may compute a softmax that transformers' interface does not see."""
    return _computes_softmax(module) and first_count(module, HEAD_COUNTS) is not None


def without_count(model: nn.Module) -> str:
    """Returns a sentence on modules that may compute attention and do not say how many heads they have; "" if none."""
    kinds = {type(module).__name__ for module in model.modules() if _may_be_attention(module)}
    if not kinds:
        return ""
    names = ", ".join(HEAD_COUNTS)
    return (
        f"{' and '.join(sorted(kinds))} may compute attention, but the number of heads stands in none of the "
        f"attributes {names} of the module, so its heads are not found; set one if it has heads."
    )


def _computes_softmax(module: nn.Module) -> bool:
    names = names_reached_by(module)  # known for its class, so that a block is opened fast
    children = vars(module)["_modules"].values()
    return INTERFACE not in names and (not SEEN.isdisjoint(names) or any(isinstance(c, nn.Softmax) for c in children))


def _may_be_attention(module: nn.Module) -> bool:
    if is_of_library(module) or not _computes_softmax(module):
        return False
    return has_parts_of_attention(module) and first_count(module, HEAD_COUNTS) is None


def is_of_library(module: nn.Module) -> bool:
    """Returns True for a class that was looked at: what has no heads there, says so by having no count."""
    return type(module).__module__.partition(".")[0] in LIBRARIES


def has_parts_of_attention(module: nn.Module) -> bool:
    """Returns True for a module with several matrices, or torch's attention: a router, or a classifier, has one."""
    matrices = sum(map(is_plain_matrix, module.children()))
    return matrices > 1 or not TORCH_FUNCTIONS.isdisjoint(names_reached_by(module))
