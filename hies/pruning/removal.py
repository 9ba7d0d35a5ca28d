"""Heads cut out for good: `prune` returns a smaller model that computes what the masked one does."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hies.errors import HiesError, UnsupportedModelError, brief, check_choice
from hies.heads.attention import check_not_handled
from hies.heads.configuration import BASES, SiteConfig
from hies.heads.conventions import ALL_WIDTHS, BIASES, DIVIDING, HEAD_COUNTS, KEY_HEAD_COUNTS, KEY_WIDTHS, OWN_BIAS
from hies.heads.copies import independent_copy, left_behind
from hies.heads.forwards import arguments_of, names_used_by, tuples_used_by
from hies.heads.inputs import inputs_like
from hies.heads.projections import Projections, cannot_cut, find_projections
from hies.heads.pruned import HeadCount, PickInputs, PrunedHeads, groups_of, refuse_static_cache
from hies.heads.recognition import computes_attention
from hies.heads.sites import Removed, normalize_removed
from hies.heads.weights import check_unshared, check_weights_are_here
from hies.pruning.counts import own_configuration, settle_counts
from hies.pruning.headless import remove_weights
from hies.pruning.rehearsal import built_otherwise, why_not_the_same
from hies.pruning.selection import UNITS

# Adapters of peft, by its names, that bring keys and values for all heads of the configuration.
BRINGING_KEYS = {"PREFIX_TUNING": "prefix tuning", "CARTRIDGE": "a cartridge of keys and values"}
ADAPTION = "adaption_prompt"  # an attribute of the modules of peft that compute attention to keys of their own


def prune(
    model: PreTrainedModel, removed: Mapping[str, Sequence[int]], unit: str = "head", inplace: bool = False
) -> PreTrainedModel:
    """Returns a copy of `model` without some heads; `model` stays as it is.

    Rows of the query, key and value matrices and columns of the output matrix are cut, biases too; a layer may lose all
    its heads. A key/value head goes with the last of its query heads. The copy may be pruned again: heads are then
    counted in the copy.

    Args:
        model: any model whose heads `hies.find_sites` finds and whose projections have known names.
        removed: site -> indices of its heads that are removed.
        unit: `head`, or `kv_group` to insist that whole groups of query heads are removed, which keeps every layer a
            plain grouped-query attention.
        inplace: cut the heads out of `model` itself and return it, where the memory does not hold two. What is refused
            is refused before; a model that anything else stops halfway says so when it is run or saved. The matrices
            are new parameters: an optimizer that was made before trains the old ones, so make it afterwards.

    Raises:
        UnsupportedModelError: the weights of a site cannot be cut, are tied to others, quantised or not in memory, or
            wrapped (adapters, DistributedDataParallel); or a copy would run modules of the original, as a forward that
            was replaced by a closure does. Nothing was changed. `prunable` names the sites that can be cut.
        HiesError: an unknown site, head or unit; a group that would be split under `unit="kv_group"`; an open
            `hies.masked` block, which the copy would not know of.
    """
    check_not_handled(model, "hies.prune")
    _check_not_wrapped(model)
    check_no_adapters(model)
    check_weights_are_here(model, "hies.prune", shapes_will_do=True)
    check_choice("unit", unit, UNITS)
    removed = normalize_removed(removed)
    cuts, replaced = _cuts(model, removed), built_otherwise(model, removed)
    for site, site_cut in cuts.items():
        if unit == "kv_group":
            _check_whole_groups(site, site_cut)
        if reason := replaced.get(site) or rehearse(model, site, removed[site]):
            raise cannot_cut(model, site, reason)
    if inplace:
        own_configuration(model)
    else:
        model = independent_copy(model, "hies.prune", ", or give inplace=True, which copies nothing")
        cuts = _cuts(model, removed)
    _cut_all(model, cuts)
    return model


def _check_not_wrapped(model: nn.Module) -> None:
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise UnsupportedModelError(
            "DistributedDataParallel averages the gradients of the matrices that it was given, not of those that are "
            "left; give the model inside it (its .module), and wrap what is left."
        )


def check_no_adapters(model: nn.Module) -> None:
    """Raises UnsupportedModelError where adapters wrap matrices, or bring keys and values for all heads.

    Of the first half of what is there would be cut or saved; the others would still come for all heads. Prompt tuning
    puts tokens in front, which know of no heads.
    """
    if any(hasattr(module, "base_layer") for module in model.modules()):
        remedy = "merge them first, as peft's merge_and_unload() does, or unload them"
        raise UnsupportedModelError(f"This {type(model).__name__} has adapters (LoRA or its like); {remedy}.")
    kinds = sorted({kind for module in model.modules() for kind in _keys_brought(module)})
    if kinds:
        raise UnsupportedModelError(
            f"This {type(model).__name__} has {' and '.join(kinds)}: keys and values for all heads, which cannot be "
            "merged; give the base model alone (of peft's prefix tuning model.get_base_model())."
        )


def _keys_brought(module: nn.Module) -> Iterator[str]:
    """Yields the kinds of adapters in a module that bring keys and values of their own."""
    if hasattr(module, ADAPTION):
        yield "adaption prompts"
    configs = getattr(module, "peft_config", None)
    for config in configs.values() if isinstance(configs, dict) else ():
        if (kind := str(getattr(config.peft_type, "value", config.peft_type))) in BRINGING_KEYS:
            yield BRINGING_KEYS[kind]


def pruned_heads(model: nn.Module) -> Removed:
    """Returns what has been cut out of a model, site -> its removed heads, counted as in the dense one."""
    records = {name: PrunedHeads.of(module) for name, module in model.named_modules()}
    return {name: record.removed for name, record in records.items() if record}


@dataclass(frozen=True)
class _Cut:
    """What happens to one site: its projections, the positions of the heads that stay, and the record of it."""

    projections: Projections
    stay: list[int]
    key_stay: list[int]
    record: PrunedHeads


def cut(model: PreTrainedModel, removed: Mapping[str, Sequence[int]]) -> None:
    """Cuts heads out of `model` itself; works on the meta device, where weights have shapes only."""
    _cut_all(model, _cuts(model, normalize_removed(removed)))


def _cut_all(model: Any, cuts: Mapping[str, _Cut]) -> None:
    # Some module may make a bias of the scores of all dense heads, maybe for other modules' sites.
    biases = (getattr(module, name, None) for module in model.modules() for name in BIASES)
    biased = any(bias is not None and bias is not False for bias in biases)
    with _unusable_if_stopped(model):
        for site, site_cut in cuts.items():
            _apply(model.get_submodule(site), site_cut, biased)
    if not any(weight.is_meta for weight in model.parameters()):  # else the configuration has to build the dense shapes
        settle_counts(model)


@contextlib.contextmanager
def _unusable_if_stopped(model: nn.Module) -> Iterator[None]:
    """Refuses to run or save a model until the block has ended, whatever stops it: some sites would be cut, or half."""
    stopped = f"Heads were being cut out of this {type(model).__name__} when it was stopped; load the model again."

    def refuse(*_: Any) -> None:
        raise HiesError(stopped)

    hooks = [model.register_forward_pre_hook(refuse), model.register_state_dict_pre_hook(refuse)]
    try:
        yield
    except Exception as error:
        raise HiesError(f"{stopped.removesuffix('.')} ({brief(error)}).") from error
    for hook in hooks:
        hook.remove()


def _cuts(model: nn.Module, removed: Removed) -> dict[str, _Cut]:
    """Returns what happens to each site; raises an error, and changes nothing, where it cannot happen."""
    cuts = {site: _cut_of(model, site, heads) for site, heads in removed.items()}
    check_unshared(model, {site: site_cut.projections for site, site_cut in cuts.items()})
    return cuts


def _cut_of(model: nn.Module, site: str, heads: Sequence[int]) -> _Cut:
    modules = dict(model.named_modules())
    if site not in modules:
        raise HiesError(f"{type(model).__name__} has no site {site!r}; hies.find_sites names its sites.")
    before = PrunedHeads.of(modules[site])
    if before and not before.heads:
        raise HiesError(f"site {site!r} has no heads left; leave it out of what is removed.")
    found = find_projections(model, site)
    if not set(heads) <= set(range(found.heads)):
        raise HiesError(f"site {site!r} has the heads 0 to {found.heads - 1}; {heads} cannot be removed from it.")
    if before is None:
        every, every_key = tuple(range(found.heads)), tuple(range(found.key_heads))
        before = PrunedHeads(found.heads, every, found.key_heads, every_key, None)
    key_head_of = dict(enumerate(found.groups))
    stay = [head for head in range(found.heads) if head not in heads]
    key_stay = sorted({key_head_of[head] for head in stay})
    surviving, surviving_keys = (before.heads[i] for i in stay), (before.key_heads[i] for i in key_stay)
    groups = groups_of(stay, key_stay, key_head_of)
    if groups and computes_attention(modules[site]):
        raise HiesError(
            f"site {site!r} ({type(modules[site]).__name__}) shares a key/value head among equally many query heads; "
            "remove whole groups (hies.select with groups does), or as many heads of each."
        )
    record = replace(before, heads=tuple(surviving), key_heads=tuple(surviving_keys), groups=groups)
    return _Cut(found, stay, key_stay, record)


def rehearse(model: nn.Module, site: str, removed: Sequence[int]) -> str:
    """Returns why a copy of a module, cut, does not compute what the module does without these heads; "" where it does.

    Where it computes its softmax by itself, its own code has to run with fewer heads; it is run before it is trusted.
    """
    module, (parent, _, name) = model.get_submodule(site), site.rpartition(".")
    if not computes_attention(module) or PrunedHeads.of(module) or next(module.parameters()).is_meta:
        return ""  # it has been tried before, or there are shapes alone
    around = copy.deepcopy(model.get_submodule(parent)).float().eval()
    if found := left_behind(around, model):
        return f"its {found} holds a function or reference that reaches this very module, so that no copy can be tried"
    dense: Any = copy.deepcopy(around.get_submodule(name))
    site_cut = _cut_of(around, name, removed)
    _apply(around.get_submodule(name), site_cut, False)
    columns = site_cut.projections.output.rows[site_cut.stay].reshape(-1)
    return why_not_the_same(dense, around.get_submodule(name), inputs_like(module, dense), removed, columns)


def _check_whole_groups(site: str, site_cut: _Cut) -> None:
    whole = {head for head, key_head in enumerate(site_cut.projections.groups) if key_head in site_cut.key_stay}
    if split := sorted(whole - set(site_cut.stay)):
        raise HiesError(
            f"unit is kv_group, but of the group of head {split[0]} in site {site!r} only some heads go; "
            "remove whole groups (hies.select with groups does) or use unit='head'."
        )


def _apply(module: Any, site_cut: _Cut, biased: bool) -> None:
    found, stay, key_stay = site_cut.projections, site_cut.stay, site_cut.key_stay
    is_own = computes_attention(module)
    if stay:
        _cut_weights(module, found, stay, key_stay)
    else:
        remove_weights(module, found)
    # a layer without heads runs as if it had one
    heads = len(stay) or 1
    if type(module).__name__ in DIVIDING:
        heads = HeadCount.of(heads, found.output.rows.shape[1], site_cut.record.dense_heads)
    counts = _set_counts(module, found, heads, len(key_stay) or 1)
    if is_own:
        if counts:
            module.config = SiteConfig(module, counts, False, False)
        if PrunedHeads.of(module) is None:
            kind: Any = type(module)
            module.register_forward_pre_hook(PickInputs(arguments_of(kind)), with_kwargs=True)
    else:
        # A forward that asks for the implementation by name (sparse attention) has to find transformers' own.
        is_routed = not any(name in names for names in tuples_used_by(module) for name in BASES)
        # Equal groups of heads that read no bias of all heads, transformers' functions compute too.
        odd = not stay or site_cut.record.groups or found.joint_norms
        is_required = is_routed and bool(odd or (biased and type(module).__name__ not in OWN_BIAS))
        module.config = SiteConfig(module, counts, is_routed, is_required)
        if found.joint_norms and PrunedHeads.of(module) is None:
            module.register_forward_pre_hook(refuse_static_cache, with_kwargs=True)
    if hasattr(module, "num_key_value_groups"):
        module.num_key_value_groups = 1 if site_cut.record.groups or not stay else len(stay) // len(key_stay)
    setattr(module, PrunedHeads.NAME, site_cut.record)


def _cut_weights(module: Any, found: Projections, stay: list[int], key_stay: list[int]) -> None:
    rows: dict[nn.Module, list[Tensor]] = {}
    for part, of_keys in found.inputs:
        rows_of_heads = part.rows[key_stay if of_keys else stay]  # [heads that stay, rows of a head]
        rows.setdefault(part.module, []).append(rows_of_heads.reshape(-1))
    for projection, parts in rows.items():
        _keep(projection, 0, torch.cat(parts).sort().values)
    _keep(found.output.module, 1, found.output.rows[stay].reshape(-1))
    for name, of_keys in found.head_norms.items():
        _keep_norm(getattr(module, name), key_stay if of_keys else stay)
    for parameter in found.parameters:
        entries = torch.arange(parameter.tensor.shape[parameter.dim]).view(-1, parameter.share)[stay].reshape(-1)
        setattr(parameter.owner, parameter.name, _part(parameter.tensor, parameter.dim, entries))


def _keep(module: Any, dim: int, indices: Tensor) -> None:
    """Cuts a projection down to some of its outputs (dim 0) or inputs (dim 1)."""
    is_conv = isinstance(module, Conv1D)  # which stores [inputs, outputs]
    module.weight = _part(module.weight, 1 - dim if is_conv else dim, indices)
    if dim == 0 and module.bias is not None:
        module.bias = _part(module.bias, 0, indices)
    names = ("nf", "nx") if is_conv else ("out_features", "in_features")
    setattr(module, names[dim], len(indices))


def _keep_norm(norm: Any, stay: list[int]) -> None:
    if isinstance(getattr(norm, "norms", None), nn.ModuleList):
        norm.norms = nn.ModuleList(norm.norms[i] for i in stay)
        return
    for name, parameter in list(norm.named_parameters()):
        setattr(norm, name, _part(parameter, 0, torch.tensor(stay)))


@torch.no_grad()
def _part(parameter: Tensor, dim: int, indices: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.index_select(dim, indices.to(parameter.device)), parameter.requires_grad)


def _set_counts(module: Any, found: Projections, heads: int, key_heads: int) -> dict[str, int]:
    """Tells the module how many heads it has, wherever its forward uses that number; returns what it looks up."""
    width, used = found.output.rows.shape[1], names_used_by(module)
    counts = [(name, found.heads, heads) for name in HEAD_COUNTS]
    counts += [(name, found.key_heads, key_heads) for name in KEY_HEAD_COUNTS]
    counts += [(name, found.heads * width, heads * width) for name in ALL_WIDTHS if name in used]
    counts += [(name, found.key_heads * width, key_heads * width) for name in KEY_WIDTHS if name in used]
    if hasattr(module, "has_relative_attention_bias") and type(module).__name__ not in OWN_BIAS:
        # T5 shapes its bias, which all layers share, by the dense count
        counts = [count for count in counts if count[0] != "n_heads"]
    for name, before, now in counts:
        if getattr(module, name, None) == before:
            setattr(module, name, now)
    looked_up = {"num_attention_heads": heads, "num_key_value_heads": key_heads}
    return {name: count for name, count in looked_up.items() if name in used and not hasattr(module, name)}
