"""What is left of a module that computes its softmax by itself, compared with what it was, before it is trusted."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from hies.errors import HiesError, brief
from hies.heads.inputs import Inputs
from hies.heads.own_softmax import without
from hies.heads.recognition import computes_attention
from hies.pruning.counts import built_with

ALLOWED_ERROR = 1e-3  # of the largest number; a wrong row or head changes all of them


def built_otherwise(model: nn.Module, sites: Iterable[str]) -> dict[str, str]:
    """Returns the sites whose module is another than the configuration builds, and what to say: none can be loaded.

    Only modules that compute their softmax by themselves are replaced while a model runs (BigBird's, by short texts).
    """
    own = {site: module for site in sites if computes_attention(module := model.get_submodule(site))}
    if not own or not isinstance(model, PreTrainedModel):
        return {}
    built = built_with(model, {})
    there = {} if built is None else dict(built.named_modules())
    kinds = {site: type(there[site]) for site in own if site in there}
    reason = "its configuration builds {} in its place; let it name what was run (BigBird: attention_type)"
    return {site: reason.format(kind.__name__) for site, kind in kinds.items() if kind is not type(own[site])}


@torch.no_grad()
def why_not_the_same(
    dense: nn.Module, small: nn.Module, inputs: Inputs | None, removed: Sequence[int], columns: Tensor
) -> str:
    """Returns why a cut module does not compute what the dense one does without some heads; "" where it does.

    Args:
        dense: in evaluation mode and float32, as is the next.
        small: what is left of it; None of its heads may be.
        inputs: of both; None where none are known.
        removed: the heads that were cut out.
        columns: what is left of the inputs of the output projection, which may lie outside of the module.
    """
    if inputs is None:
        return "its forward has to be seen with inputs first; call hies.find_sites(model, batch) before"
    args, kwargs = inputs
    try:
        expected = _numbers(without(removed, dense, *args, **kwargs))
    except HiesError:
        raise
    except Exception as error:
        return f"its forward does not run by itself ({brief(error)})"
    try:
        found = _numbers(small(*args, **kwargs))
    except Exception as error:
        return f"its forward does not run with fewer heads ({brief(error)})"
    given = {id(leaf) for leaf in tree_leaves(inputs)}
    if any(id(one) in given and other.shape != one.shape for one, other in zip(expected, found, strict=False)):
        return "it hands what comes for all heads on to another module"
    return _compared(found[0], expected[0], columns)


def _compared(found: Tensor, expected: Tensor, columns: Tensor) -> str:
    if found.shape != expected.shape:  # the output projection comes after the module
        if not len(columns):
            return ""
        expected = expected[..., columns.to(expected.device)]
    if not expected.isfinite().all():
        return "its forward gives no finite numbers for made up inputs"
    same = found.shape == expected.shape and torch.allclose(
        found, expected, rtol=0, atol=ALLOWED_ERROR * float(expected.abs().max()), equal_nan=True
    )
    return "" if same else "what is left of it computes something else"


def _numbers(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
