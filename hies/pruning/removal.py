"""Heads cut out for good: `prune` returns a smaller model that computes what the masked one does."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hies.errors import HiesError, UnsupportedModelError, check_choice
from hies.heads.attention import check_not_handled, route
from hies.heads.conventions import ALL_WIDTHS, BIASES, HEADS, KEY_HEADS, KEY_WIDTHS, OWN_BIAS
from hies.heads.forwards import reads
from hies.heads.projections import HeadParameter, Projections, find_projections, matrix
from hies.heads.pruned_heads import Kept, groups_of
from hies.heads.sites import Removed, normalize_removed
from hies.pruning.selection import UNITS


def prune(model: PreTrainedModel, removed: Mapping[str, Sequence[int]], unit: str = "head") -> PreTrainedModel:
    """A copy of `model` without the given heads; `model` stays as it is.

    Rows of the query, key and value matrices and columns of the output matrix are cut, biases too; a layer may lose all
    its heads. A key/value head goes with the last of its query heads. The copy may be pruned again: heads are then
    counted in the copy.

    Args:
        model: any model whose heads `hies.find_sites` finds and whose projections have known names.
        removed: site -> indices of its heads that go.
        unit: `head`, or `kv_group` to insist that whole groups of query heads go, which keeps every layer a plain
            grouped-query attention.

    Raises:
        UnsupportedModelError: the weights of a site cannot be cut, or adapters wrap them; nothing was changed.
        HiesError: an unknown site, head or unit; a group that would be split under `unit="kv_group"`; an open
            `hies.masked` block, which the copy would not know of.
    """
    check_not_handled(model, "hies.prune")
    check_no_adapters(model)
    check_choice("unit", unit, UNITS)
    removed = normalize_removed(removed)
    _check_unshared(model, {site: _plan(model, site, heads, unit)[0] for site, heads in removed.items()})
    small = copy.deepcopy(model)
    cut(small, removed)
    return small


def check_no_adapters(model: nn.Module) -> None:
    """Refuse a model whose matrices are wrapped by LoRA or its like: what is cut, or saved, would be half of it.

    Raises:
        UnsupportedModelError: peft's layers are in it.
    """
    if any(hasattr(module, "base_layer") for module in model.modules()):
        raise UnsupportedModelError(
            f"This {type(model).__name__} has adapters (LoRA or its like); merge them first, as peft's "
            "merge_and_unload() does, or unload them."
        )


def pruned_heads(model: nn.Module) -> Removed:
    """What has been cut out of a model, in the counting of the dense one: site -> its heads that are gone."""
    kept = {name: getattr(module, Kept.NAME, None) for name, module in model.named_modules()}
    return {name: record.removed for name, record in kept.items() if record}


def cut(model: PreTrainedModel, removed: Mapping[str, Sequence[int]]) -> None:
    """Cut heads out of `model` itself; works on the meta device, where weights have shapes only."""
    plans = {site: _plan(model, site, heads) for site, heads in normalize_removed(removed).items()}
    for site, plan in plans.items():
        _cut_site(model.get_submodule(site), *plan)
    biased = _is_biased(model)
    needing = [
        site
        for site, (found, *_, kept) in plans.items()
        if _needs_routing(model.get_submodule(site), found, kept, biased)
    ]
    route(model, needing)


def _plan(
    model: nn.Module, site: str, heads: Iterable[int], unit: str = "head"
) -> tuple[Projections, list[int], list[int], Kept]:
    """The projections of a site, the positions of the query and key/value heads that stay, and the record of it."""
    modules = dict(model.named_modules())
    if site not in modules:
        raise HiesError(f"{type(model).__name__} has no site {site!r}; hies.find_sites names its sites.")
    before: Kept | None = getattr(modules[site], Kept.NAME, None)
    if before and not before.heads:
        raise HiesError(f"site {site!r} has no heads left; leave it out of what is removed.")
    found = find_projections(model, site)
    gone = set(heads)
    if not gone <= set(range(found.heads)):
        raise HiesError(
            f"site {site!r} has the heads 0 to {found.heads - 1}; {sorted(gone)} cannot be removed from it."
        )
    if before is None:
        every, every_key = tuple(range(found.heads)), tuple(range(found.key_heads))
        before = Kept(found.heads, every, found.key_heads, every_key, None)
    group = dict(enumerate(found.groups))
    stay = [head for head in range(found.heads) if head not in gone]
    key_stay = sorted({group[head] for head in stay})
    _check_unit(unit, site, stay, [head for head in group if group[head] in key_stay])
    return (
        found,
        stay,
        key_stay,
        Kept(
            before.of,
            tuple(before.heads[i] for i in stay),
            before.key_of,
            tuple(before.key_heads[i] for i in key_stay),
            groups_of(stay, key_stay, group),
        ),
    )


def _check_unshared(model: nn.Module, sites: Mapping[str, Projections]) -> None:
    """Refuse a projection that other modules use as well: they would lose its heads too."""
    uses = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for site, found in sites.items():
        for part in (found.query, found.key, found.value, found.output, *found.gates):
            if uses[part.module] > uses[part.owner]:
                raise UnsupportedModelError(
                    f"The heads of site {site!r} cannot be cut out: its {part.name} is shared with another module."
                )


def _check_unit(unit: str, site: str, stay: list[int], whole: list[int]) -> None:
    split = sorted(set(whole) - set(stay))
    if unit == "kv_group" and split:
        raise HiesError(
            f"unit is kv_group, but of the group of head {split[0]} in site {site!r} only some heads go; "
            "remove whole groups (hies.select with groups does) or use unit='head'."
        )


def _cut_site(module: Any, found: Projections, stay: list[int], key_stay: list[int], kept: Kept) -> None:
    if stay:
        _cut_weights(module, found, stay, key_stay)
    else:
        _leave_nothing(module, found)
    _set_counts(module, found, len(stay) or 1, len(key_stay) or 1)  # a layer without heads runs as if it had one
    if hasattr(module, "num_key_value_groups"):
        module.num_key_value_groups = 1 if kept.groups or not stay else len(stay) // len(key_stay)
    setattr(module, Kept.NAME, kept)


def _needs_routing(module: nn.Module, found: Projections, kept: Kept, biased: bool) -> bool:
    """Whether attention of this site has to run through the function of hies.heads.attention from now on."""
    biased = biased and type(module).__name__ not in OWN_BIAS
    return bool(not kept.heads or kept.groups or found.tied or biased)


def _is_biased(model: nn.Module) -> bool:
    """Whether some module makes a bias of the scores of all dense heads, maybe for the sites of others."""
    made = (getattr(module, name, None) for module in model.modules() for name in BIASES)
    return any(bias is not None and bias is not False for bias in made)


def _cut_weights(module: Any, found: Projections, stay: list[int], key_stay: list[int]) -> None:
    rows: dict[nn.Module, list[Tensor]] = {}
    for part, of_keys in found.inputs:
        rows.setdefault(part.module, []).append(part.rows[key_stay if of_keys else stay].reshape(-1))
    for projection, parts in rows.items():
        _keep_outputs(projection, torch.cat(parts).sort().values)
    _keep_inputs(found.output.module, found.output.rows[stay].reshape(-1))
    for norm in found.own:
        _keep_norm(getattr(module, norm.name), key_stay if norm.of_keys else stay)
    for parameter in found.parameters:
        setattr(parameter.owner, parameter.name, _part(parameter.tensor, parameter.dim, torch.tensor(stay)))


def _keep_outputs(module: Any, rows: Tensor) -> None:
    module.weight = _part(module.weight, 1 if isinstance(module, Conv1D) else 0, rows)
    if module.bias is not None:
        module.bias = _part(module.bias, 0, rows)
    setattr(module, "nf" if isinstance(module, Conv1D) else "out_features", len(rows))


def _keep_inputs(module: Any, columns: Tensor) -> None:
    module.weight = _part(module.weight, 0 if isinstance(module, Conv1D) else 1, columns)
    setattr(module, "nx" if isinstance(module, Conv1D) else "in_features", len(columns))


def _keep_norm(norm: Any, stay: list[int]) -> None:
    if isinstance(getattr(norm, "norms", None), nn.ModuleList):
        norm.norms = nn.ModuleList(norm.norms[i] for i in stay)
        return
    for name, parameter in list(norm.named_parameters()):
        setattr(norm, name, _part(parameter, 0, torch.tensor(stay)))


@torch.no_grad()
def _part(parameter: Tensor, dim: int, indices: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.index_select(dim, indices.to(parameter.device)), parameter.requires_grad)


def _leave_nothing(module: Any, found: Projections) -> None:
    """Replace the projections of a site by modules without weights: forwards still see the shapes of one head."""
    widths: dict[tuple[nn.Module, str], int] = {}
    for part in (found.query, found.key, found.value, *found.gates):
        place = (part.owner, part.name)
        widths[place] = widths.get(place, 0) + part.rows.shape[1]
    for (owner, name), width in widths.items():
        setattr(owner, name, Zeros(width, getattr(owner, name).bias is not None))
    output: Any = found.output.module
    setattr(found.output.owner, found.output.name, Constant(output.bias, len(matrix(output))))
    for name in (*found.tied, *(norm.name for norm in found.own)):
        setattr(module, name, nn.Identity())
    for parameter in found.parameters:
        _leave_zeros(parameter)


def _leave_zeros(parameter: HeadParameter) -> None:
    """One head's worth of zeros that nothing saves: forwards still add them to what is never used."""
    zeros = torch.zeros_like(parameter.tensor.narrow(parameter.dim, 0, 1), requires_grad=False)
    delattr(parameter.owner, parameter.name)
    parameter.owner.register_buffer(parameter.name, zeros, persistent=False)


class Zeros(nn.Module):
    """In place of a projection whose heads are all gone: [..., inputs] -> zeros [..., width].

    weight, bias: without elements; transformers initialises what has these names before it loads a checkpoint.
    """

    def __init__(self, width: int, biased: bool = False) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(0), requires_grad=False) if biased else None

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., inputs] -> zeros [..., width]."""
        return hidden.new_zeros(*hidden.shape[:-1], self.width)


class Constant(Zeros):
    """In place of an output projection whose heads are all gone: what it gave for zeros, its bias, [..., width]."""

    def __init__(self, bias: nn.Parameter | None, width: int) -> None:
        super().__init__(width)
        self.bias = bias

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., inputs] -> [..., width]."""
        zeros = super().forward(hidden)
        return zeros if self.bias is None else zeros + self.bias.to(hidden.dtype)


def _set_counts(module: Any, found: Projections, heads: int, key_heads: int) -> None:
    """Tell the module how many heads it has, wherever its forward reads that number."""
    width, read = found.output.rows.shape[1], reads(module)
    counts = [(name, found.heads, heads) for name in HEADS] + [(name, found.key_heads, key_heads) for name in KEY_HEADS]
    counts += [(name, found.heads * width, heads * width) for name in ALL_WIDTHS if name in read]
    counts += [(name, found.key_heads * width, key_heads * width) for name in KEY_WIDTHS if name in read]
    if hasattr(module, "has_relative_attention_bias") and type(module).__name__ not in OWN_BIAS:
        # T5 shapes its bias, which all layers share, by the dense count
        counts = [count for count in counts if count[0] != "n_heads"]
    for name, before, now in counts:
        if getattr(module, name, None) == before:
            setattr(module, name, now)
    looked_up = {"num_attention_heads": heads, "num_key_value_heads": key_heads}
    looked_up = {name: count for name, count in looked_up.items() if name in read and not hasattr(module, name)}
    if looked_up:
        module.config = OwnCounts(module.config, looked_up)


class OwnCounts:
    """A configuration with the head counts of one layer; the rest is read from, and written to, the model's own."""

    def __init__(self, config: Any, counts: dict[str, int]) -> None:
        self.__dict__.update(config=config.config if isinstance(config, OwnCounts) else config, counts=counts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying asks for these before there is a configuration
            raise AttributeError(name)
        return self.counts[name] if name in self.counts else getattr(self.config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.config, name, value)
