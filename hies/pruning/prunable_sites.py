"""Which heads of a model can be cut out, and how many may stay for what is left to be an ordinary model."""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from hies.heads.attention import find_sites
from hies.heads.projections import find_projections
from hies.heads.sites import Site
from hies.heads.weights import check_weights_are_here, refusals
from hies.pruning.counts import dense_counts, settle_counts
from hies.pruning.rehearsal import built_otherwise
from hies.pruning.removal import check_no_adapters, cut, rehearse


class PrunableSites(dict[str, Site]):
    """The sites whose heads can be cut out, by name, in order of first use.

    Attributes:
        refused: every other site -> why its heads cannot be cut out, in words that follow a colon.
        model: whose sites they are.
    """

    def __init__(self, sites: Mapping[str, Site], refused: dict[str, str], model: nn.Module) -> None:
        super().__init__({name: site for name, site in sites.items() if name not in refused})
        self.refused, self.model = refused, model

    @property
    def note(self) -> str:
        """A sentence that names the sites whose heads stay, and why."""
        names: dict[str, list[str]] = {}
        for site, reason in self.refused.items():
            names.setdefault(reason, []).append(site)
        more = [f"{', '.join(of[:3])}{f' and {len(of) - 3} more' * (len(of) > 3)} ({why})" for why, of in names.items()]
        every = len(self) + len(self.refused)
        return f"Heads are removed from {len(self)} of {every} sites; the others stay whole: {'; '.join(more)}."

    @cached_property
    def plain(self) -> dict[str, list[int]]:
        """Site -> the smaller numbers of heads that plain `from_pretrained` builds it with, whole groups all of them.

        All sites that have as many heads as it then keep that number. It is tried on shapes alone, a model a number.
        """
        alike: dict[tuple[int, int | None], list[str]] = {}
        for name, site in self.items():
            alike.setdefault((site.heads, site.group), []).append(name)
        counts = {shape: self._built(names, *shape) for shape, names in alike.items()}
        return {name: counts[site.heads, site.group] for name, site in self.items()}

    def _built(self, names: Sequence[str], heads: int, group: int | None) -> list[int]:
        fewer = range(group, heads, group) if group else ()
        return [count for count in fewer if _is_plain(self.model, names, range(count, heads))]


def _is_plain(model: nn.Module, names: Sequence[str], heads: Sequence[int]) -> bool:
    """Returns True if plain `from_pretrained` would build the model without these heads of some sites."""
    tensors = (*model.parameters(), *model.buffers())
    shapes: dict[int, Any] = {id(one): torch.empty_like(one, device="meta") for one in tensors}
    shapes |= {id(one): nn.Parameter(shapes[id(one)], one.requires_grad) for one in model.parameters()}
    small: Any = copy.deepcopy(model, shapes)
    cut(small, dict.fromkeys(names, heads))
    settle_counts(small)
    return bool(dense_counts(small))


def prunable(model: nn.Module, batch: Mapping[str, Any]) -> PrunableSites:
    """Returns the sites that `prune` can cut heads out of, among those that a forward pass over `batch` reaches.

    `hies.select(scores, ratio, sites=hies.prunable(model, batch))` takes heads of these alone. Nothing is changed. None
    are left where no site can be cut; `refused` says why of each.

    Raises:
        HiesError: the batch is no dict, or the model cannot read it.
        UnsupportedModelError: heads are not found, or adapters or weights elsewhere keep all of the model from it.
    """
    check_no_adapters(model)
    check_weights_are_here(model, "hies.prunable", shapes_will_do=True)
    sites = find_sites(model, batch)
    refused = built_otherwise(model, sites) | refusals(model, sites)
    for site in sites.keys() - refused.keys():
        groups = find_projections(model, site).groups
        first = [head for head, group in enumerate(groups) if group == 0]
        if reason := rehearse(model, site, first if len(first) < len(groups) else [0]):
            refused[site] = reason
    return PrunableSites(sites, refused, model)
