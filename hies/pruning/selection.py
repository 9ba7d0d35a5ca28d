"""From scores to the heads that are removed: exact counts, stable ties, nested in the ratio.

Where `groups` names, for each site, how many query heads share a key/value head, whole groups are removed: a group's
score is the mean of its heads', and as many groups go as come nearest to round(ratio * heads), fewer if two numbers are
as near.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

import hies
from hies.errors import HiesError, ParameterError, check_choice
from hies.heads.sites import Removed, Site, SiteHead, SiteTensors

SCOPES = ("global", "layer")
SCHEDULES = ("oneshot", "iterative")
UNITS = ("head", "kv_group")
Groups = Mapping[str, int]  # site -> query heads that share a key/value head; a site that is not in it: 1
Score = Callable[[Removed], SiteTensors]  # removed heads -> scores of all heads, computed with those heads masked


@dataclass(frozen=True)
class Selection:
    """How scores become masks.

    Attributes:
        scope: `global` ranks all heads of the model together (the paper); `layer` takes the same share of every site.
        min_heads_per_layer: the best N heads of every site always stay (0 in the paper).
        unit: what is removed, `head` or `kv_group` (all query heads that share a key/value head).
        schedule: `oneshot`, or `iterative`, which scores again after each `step`.
        step: share of the heads that is removed between two scorings, in (0, 1]; for `iterative` alone.
        plain: every site keeps as many heads, in whole groups, as come nearest to the ratio among the numbers that
            plain `from_pretrained` can build; how many go in all follows from that. For `oneshot` alone.
    """

    scope: str = "global"
    min_heads_per_layer: int = 0
    unit: str = "head"
    schedule: str = "oneshot"
    step: float | None = None
    plain: bool = False

    def __post_init__(self) -> None:
        for name, values in (("scope", SCOPES), ("unit", UNITS), ("schedule", SCHEDULES)):
            check_choice(name, getattr(self, name), values)
        floor = self.min_heads_per_layer
        if isinstance(floor, bool) or not isinstance(floor, Integral) or floor < 0:
            raise ParameterError("min_heads_per_layer", floor, "it must be a whole number, 0 or more")
        if self.schedule == "iterative" and not 0 < (self.step or 0) <= 1:
            raise ParameterError("step", self.step, "for the iterative schedule it must be above 0 and at most 1")
        if self.schedule == "oneshot" and self.step is not None:
            raise ParameterError("step", self.step, "the oneshot schedule scores once and takes none")
        if self.plain and self.schedule != "oneshot":
            raise ParameterError("plain", self.plain, "it goes with schedule='oneshot'")

    def masks(self, score: Score, ratios: Sequence[float], sites: Mapping[str, Site]) -> dict[float, Removed]:
        """Returns the heads that are removed at each ratio, smallest ratio first.

        Args:
            score: computes the scores; it is called once for `oneshot`.
            ratios: each in [0, 1].
            sites: the model's sites, from `hies.find_sites`; for `plain` from `hies.prunable`.
        """
        if self.plain:
            scores = score({})
            return {ratio: self.select_plain(scores, ratio, sites) for ratio in sorted(ratios)}
        groups = group_sizes(sites) if self.unit == "kv_group" else {}
        if self.step is not None:
            return self.select_iteratively(score, ratios, self.step, groups)
        scores = score({})
        return {ratio: self.select(scores, ratio, groups) for ratio in sorted(ratios)}

    def order(
        self, scores: SiteTensors, removed: Collection[SiteHead] = (), groups: Groups | None = None
    ) -> list[list[SiteHead]]:
        """Returns the groups that may still be removed, as lists of heads, in the order in which they are.

        Equal scores go by position (site by site, head by head), so equal scores give equal masks on every machine.
        With scope `layer`, the i-th group of n to leave a site has its turn at (i + 1/2) / n of the way (Webster's
        method), which keeps the exact count over the model and every mask inside that of a larger ratio.
        """
        ranked: list[tuple[float, int, int, list[SiteHead]]] = []
        for depth, (site, values) in enumerate(scores.items()):
            size = (groups or {}).get(site, 1)
            array = values.detach().cpu().double().numpy().reshape(-1, size).mean(axis=1)  # [groups]
            ascending = [int(group) for group in np.argsort(array, kind="stable")]
            present = [group for group in ascending if (site, group * size) not in removed]
            already, stay = len(array) - len(present), -(-self.min_heads_per_layer // size)
            for place, group in enumerate(present[: max(len(present) - stay, 0)]):
                turn = (already + place + 0.5) / len(array) if self.scope == "layer" else float(array[group])
                heads = [(site, head) for head in range(group * size, (group + 1) * size)]
                ranked.append((turn, depth, group, heads))
        return [heads for *_, heads in sorted(ranked)]

    def select(self, scores: SiteTensors, ratio: float, groups: Groups | None = None) -> Removed:
        """Returns round(ratio * heads) heads of the model; see `hies.select`."""
        return _as_removed(self.extend(scores, [], ratio, groups))

    def extend(
        self, scores: SiteTensors, already: Sequence[SiteHead], ratio: float, groups: Groups | None = None
    ) -> list[SiteHead]:
        """Returns `already`, followed by the worst of the other heads, round(ratio * heads) in all."""
        _check_scores(scores)
        if any(not values.isfinite().all() for values in scores.values()):
            raise HiesError("A score is not finite, so the heads cannot be ranked.")
        _check_groups(scores, {} if groups is None else groups)
        total = sum(len(values) for values in scores.values())
        count = hies.equations.removal_count(ratio, total)
        candidates = self.order(scores, set(already), groups)
        most = len(already) + sum(map(len, candidates))
        if count > most:
            rule = f"min_heads_per_layer={self.min_heads_per_layer} lets only {most} go"
            raise ParameterError("ratio", ratio, f"it removes {count} of {total} heads, but {rule}")
        return [*already, *_nearest(candidates, count - len(already))]

    def select_plain(self, scores: SiteTensors, ratio: float, sites: Any) -> "PlainHeads":
        """Returns the worst groups of every site, so many that `plain` is kept; see `hies.select`."""
        _check_scores(scores)
        counts = {site: fewer for site, fewer in check_plain(sites).items() if fewer or site in scores}
        chosen: list[SiteHead] = []
        if missing := [site for site in counts if site not in scores]:
            raise ParameterError("plain", True, f"every layer has to lose heads, but {missing[0]!r} has no scores")
        hies.equations.removal_count(ratio, 1)  # which refuses what is no ratio
        for site, fewer in counts.items():
            values, heads = scores[site], sites[site].heads
            if len(values) != heads:
                raise ParameterError(f"scores[{site!r}]", values, f"give one number for each of its {heads} heads")
            allowed = [*(count for count in fewer if count >= self.min_heads_per_layer), len(values)]
            stay = min(allowed, key=lambda count: (round(abs(count - (1 - ratio) * len(values)), 9), -count))
            order = Selection().order({site: values}, (), {site: sites[site].group or 1})
            chosen += [head for group in order for head in group][: len(values) - stay]
        share = len(chosen) / sum(map(len, scores.values()))
        return PlainHeads(_as_removed(chosen), scores, counts, self.extend(scores, [], share))

    def select_iteratively(
        self, score: Score, ratios: Sequence[float], step: float, groups: Groups | None = None
    ) -> dict[float, Removed]:
        """Returns masks as `masks` does, scoring again after each `step` of the heads has been removed.

        What is removed at a ratio does not depend on the other ratios, and the masks are nested.
        """
        if not 0 < step <= 1:
            raise ParameterError("step", step, "it must be above 0 and at most 1")
        masks: dict[float, Removed] = {}
        removed: list[SiteHead] = []
        done = 0  # whole steps taken
        scores = score({})
        for ratio in sorted(ratios):
            while (done + 1) * step < ratio - 1e-9:
                done += 1
                removed = self.extend(scores, removed, done * step, groups)
                scores = score(_as_removed(removed))
            masks[ratio] = _as_removed(self.extend(scores, removed, ratio, groups))
        return masks


class PlainHeads(dict[str, list[int]]):
    """The heads that are removed for what is left to be an ordinary model, and what that costs.

    Attributes:
        note: how many heads stay of how many, and the scores of those that go beside those of as many chosen freely.
    """

    def __init__(
        self, removed: Removed, scores: SiteTensors, counts: Mapping[str, list[int]], free: Sequence[SiteHead]
    ) -> None:
        super().__init__(removed)
        kinds = [(len(scores[site]) - len(removed.get(site, [])), len(scores[site]), *counts[site]) for site in counts]
        layers = "; ".join(
            f"{stay} of {heads} in each of {kinds.count((stay, heads, *fewer))} sites (what can be built with fewer "
            f"heads: {', '.join(map(str, fewer)) or 'nothing'})"
            for stay, heads, *fewer in dict.fromkeys(kinds)
        )
        own = [(site, head) for site, heads in removed.items() for head in heads]
        plain, freely = (sum(float(scores[site][head]) for site, head in heads) for heads in (own, free))
        self.note = (
            f"{len(own)} of {sum(map(len, scores.values()))} heads go; there stay {layers}. The scores of the heads "
            f"that go sum to {plain:.4g}, those of as many chosen freely to {freely:.4g}."
        )


def check_plain(sites: Any) -> Mapping[str, list[int]]:
    """Returns the numbers of heads that plain `from_pretrained` builds, site by site; refuses sites without any."""
    counts: Mapping[str, list[int]] | None = getattr(sites, "plain", None)
    if counts is None:
        raise ParameterError("plain", True, "it takes the sites that hies.prunable(model, batch) returns")
    if not any(counts.values()):
        reason = f"plain from_pretrained builds no {type(sites.model).__name__} with fewer heads in every layer"
        raise ParameterError("plain", True, f"{reason}; leave it out, and hies.load_pruned loads what is saved")
    return counts


def _check_scores(scores: SiteTensors) -> None:
    from torch import Tensor  # methods declare their knobs without torch

    if not isinstance(scores, Mapping):
        raise ParameterError("scores", scores, "give {site: tensor of one number for each head}")
    for site, values in scores.items():
        if not isinstance(values, Tensor) or values.dim() != 1 or values.is_complex():
            shape = tuple(values.shape) if hasattr(values, "shape") else values
            kind = f"{type(values).__name__} {shape}"
            raise ParameterError(f"scores[{site!r}]", kind, "give a torch tensor of one number for each head, [heads]")


def _check_groups(scores: SiteTensors, groups: Groups) -> None:
    if not isinstance(groups, Mapping):
        raise ParameterError("groups", groups, "give {site: query heads that share a key/value head}, or None")
    for site, size in groups.items():
        if site not in scores:
            raise HiesError(f"groups names {site!r}, which has no scores; it takes the sites that the scores have.")
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1 or len(scores[site]) % size:
            raise ParameterError(f"groups[{site!r}]", size, f"it must divide the {len(scores[site])} heads of the site")


def _nearest(groups: Sequence[list[SiteHead]], count: int) -> list[SiteHead]:
    """Returns the heads of the leading groups, as near to `count` of them as whole groups come."""
    taken: list[SiteHead] = []
    for heads in groups:
        if len(heads) >= 2 * (count - len(taken)):
            break
        taken += heads
    return taken


def select(
    scores: SiteTensors,
    ratio: float,
    scope: str = "global",
    min_heads_per_layer: int = 0,
    groups: Groups | None = None,
    sites: Collection[str] | None = None,
    plain: bool = False,
) -> Removed:
    """Returns the heads that are removed at a ratio, one shot, {site: sorted heads}.

    Args:
        scores: higher = keep, {site: [heads]}.
        ratio: share of the heads that is removed, in [0, 1]; of those of `sites`, where these are named.
        scope: see `Selection`.
        min_heads_per_layer: see `Selection`.
        groups: query heads that share a key/value head, {site: number}, for whole groups to go; None: single heads.
            `{name: site.heads // site.key_heads for name, site in hies.find_sites(model, batch).items()}` finds them.
        sites: the sites that heads may be removed from, such as `hies.prunable` returns; None: all that have scores.
        plain: for a model that plain `from_pretrained` loads, see `Selection`; with `sites` from `hies.prunable`, and
            without `groups`, which follow. The `note` of the result says how many stay and what it costs.

    Raises:
        HiesError: a ratio outside [0, 1], a score that is not finite, more heads than may be removed, groups or sites
            that do not fit the scores, or `plain` where the architecture has no such number of heads.
    """
    if plain:
        return Selection(scope, min_heads_per_layer, plain=True).select_plain(scores, ratio, sites)
    if sites is not None:
        groups = {} if groups is None else groups
        _check_scores(scores)
        _check_groups(scores, groups)
        scores = _of_sites(scores, sites)
        groups = {site: size for site, size in groups.items() if site in scores}
    return Selection(scope, min_heads_per_layer).select(scores, ratio, groups)


def _of_sites(scores: SiteTensors, sites: Collection[str]) -> SiteTensors:
    """Returns the scores of some sites alone, in their order."""
    if isinstance(sites, str) or not isinstance(sites, Collection):
        raise ParameterError("sites", sites, "give names of sites, as hies.prunable returns them")
    if unknown := [site for site in sites if not isinstance(site, str) or site not in scores]:
        raise ParameterError("sites", unknown[0], f"the sites that have scores are {', '.join(scores)}")
    if not sites:
        reasons = "; ".join(dict.fromkeys(getattr(sites, "refused", {}).values()))
        raise ParameterError("sites", [], f"no heads can be removed{reasons and ': ' + reasons}")
    return {site: values for site, values in scores.items() if site in sites}


def _as_removed(heads: Sequence[SiteHead]) -> Removed:
    removed: Removed = {}
    for site, head in heads:
        removed.setdefault(site, []).append(head)
    return {site: sorted(chosen) for site, chosen in removed.items()}


def group_sizes(sites: Mapping[str, Site]) -> Groups:
    """Returns how many query heads of each site share a key/value head; groups of unequal size are refused."""
    sizes = {name: site.group for name, site in sites.items()}
    for name, site in sites.items():
        if sizes[name] is None:
            raise HiesError(
                f"The {site.heads} heads of site {name!r} share {site.key_heads} key/value heads unequally, so they "
                "cannot go in whole groups; use unit=head, and a method that removes single heads."
            )
    return {name: size for name, size in sizes.items() if size is not None}
