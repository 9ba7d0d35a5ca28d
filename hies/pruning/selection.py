"""From scores to the heads that go: exact counts, stable ties, nested in the ratio.

Where `groups` names, for each site, how many query heads share a key/value head, whole groups go: a group's score is
the mean of its heads', and as many groups go as come nearest to round(ratio * heads), fewer if two numbers are as near.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hies import equations
from hies.errors import HiesError
from hies.heads.attention import Site
from hies.heads.sites import Removed, SiteTensors

SCOPES = ("global", "layer")
Head = tuple[str, int]
Groups = Mapping[str, int]  # site -> query heads that share a key/value head; a site that is not in it: 1


@dataclass(frozen=True)
class Selection:
    """How scores become masks.

    scope: `global` ranks all heads of the model together (the paper); `layer` takes the same share from every site.
    min_heads_per_layer: so many of the best heads of every site always stay (0 in the paper).
    """

    scope: str = "global"
    min_heads_per_layer: int = 0

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise HiesError(f"sparsity.scope is {self.scope!r}; use {' or '.join(SCOPES)}.")
        if self.min_heads_per_layer < 0:
            raise HiesError(f"sparsity.min_heads_per_layer is {self.min_heads_per_layer}; it must be 0 or more.")

    def order(
        self, scores: Mapping[str, Tensor], gone: Collection[Head] = (), groups: Groups | None = None
    ) -> list[list[Head]]:
        """The groups not yet gone, as lists of heads, in the order in which they go; what always stays is not in it.

        Equal scores go by position (site by site, head by head), so equal scores give equal masks on every machine.
        With scope `layer`, the i-th group of n to leave a site has its turn at (i + 1/2) / n of the way (Webster's
        method), which keeps the exact count over the model and every mask inside that of a larger ratio.
        """
        ranked: list[tuple[float, int, int, list[Head]]] = []
        for depth, (site, values) in enumerate(scores.items()):
            size = (groups or {}).get(site, 1)
            array = values.detach().cpu().double().numpy().reshape(-1, size).mean(axis=1)  # [groups]
            left = [int(group) for group in np.argsort(array, kind="stable") if (site, int(group) * size) not in gone]
            already, stay = len(array) - len(left), -(-self.min_heads_per_layer // size)
            for place, group in enumerate(left[: max(len(left) - stay, 0)]):
                turn = (already + place + 0.5) / len(array) if self.scope == "layer" else float(array[group])
                heads = [(site, head) for head in range(group * size, (group + 1) * size)]
                ranked.append((turn, depth, group, heads))
        return [heads for *_, heads in sorted(ranked)]

    def select(self, scores: Mapping[str, Tensor], ratio: float, groups: Groups | None = None) -> Removed:
        """Exactly round(ratio * heads) heads of the model, {site: sorted heads}; sites that lose nothing are left out.

        Raises:
            HiesError: a ratio outside [0, 1], a score that is not finite, more heads asked for than may go, or groups
                that do not fit the scores.
        """
        return _as_removed(self.extend(scores, [], ratio, groups))

    def extend(
        self, scores: Mapping[str, Tensor], already: Sequence[Head], ratio: float, groups: Groups | None = None
    ) -> list[Head]:
        """`already`, followed by the worst of the others, round(ratio * heads) in all."""
        if any(not values.isfinite().all() for values in scores.values()):
            raise HiesError("A score is not finite, so the heads cannot be ranked.")
        _check_groups(scores, groups or {})
        total = sum(len(values) for values in scores.values())
        count = equations.removal_count(ratio, total)
        others = self.order(scores, set(already), groups)
        most = len(already) + sum(map(len, others))
        if count > most:
            raise HiesError(
                f"ratio {ratio} removes {count} of {total} heads, but sparsity.min_heads_per_layer="
                f"{self.min_heads_per_layer} lets only {most} go."
            )
        return [*already, *_nearest(others, count - len(already))]


def _check_groups(scores: Mapping[str, Tensor], groups: Groups) -> None:
    for site, size in groups.items():
        if site not in scores:
            raise HiesError(f"groups names {site!r}, which has no scores; it takes the sites that the scores have.")
        if size < 1 or len(scores[site]) % size:
            raise HiesError(
                f"groups has {size} for site {site!r}; it must divide the {len(scores[site])} heads of that site."
            )


def _nearest(groups: Sequence[list[Head]], count: int) -> list[Head]:
    """The heads of the leading groups, as near to `count` of them as whole groups come."""
    taken: list[Head] = []
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
) -> Removed:
    """The heads that go at `ratio`, one shot; see `Selection` for the knobs and `Selection.select` for the errors.

    groups: query heads that share a key/value head, {site: number}, for whole groups to go; None: single heads.
    `{name: site.heads // site.key_heads for name, site in hies.find_sites(model, batch).items()}` finds them.
    """
    return Selection(scope, min_heads_per_layer).select(scores, ratio, groups)


def select_iteratively(
    score: Callable[[Removed], SiteTensors],
    ratios: Sequence[float],
    step: float,
    selection: Selection,
    groups: Groups | None = None,
) -> dict[float, Removed]:
    """Masks for several ratios, scoring again after each `step` of the heads has gone.

    What goes at a ratio does not depend on the other ratios asked for, and the masks are nested.

    Args:
        score: removed heads -> scores of all heads, computed with those heads masked.
        ratios: each in [0, 1].
        step: share of the model's heads that goes between two scorings, in (0, 1].
        selection: scope and floor.
        groups: as in `select`.
    """
    if not 0 < step <= 1:
        raise HiesError(f"sparsity.step is {step}; it must be above 0 and at most 1.")
    masks: dict[float, Removed] = {}
    gone: list[Head] = []
    done = 0  # whole steps taken
    scores = score({})
    for ratio in sorted(ratios):
        while (done + 1) * step < ratio - 1e-9:
            done += 1
            gone = selection.extend(scores, gone, done * step, groups)
            scores = score(_as_removed(gone))
        masks[ratio] = _as_removed(selection.extend(scores, gone, ratio, groups))
    return masks


def _as_removed(heads: Sequence[Head]) -> Removed:
    removed: Removed = {}
    for site, head in heads:
        removed.setdefault(site, []).append(head)
    return {site: sorted(chosen) for site, chosen in removed.items()}


def group_sizes(sites: Mapping[str, Site]) -> Groups:
    """How many query heads of each site share a key/value head.

    Raises:
        HiesError: a site whose groups are of unequal size.
    """
    for name, site in sites.items():
        if site.heads % site.key_heads:
            raise HiesError(
                f"The {site.heads} heads of site {name!r} share {site.key_heads} key/value heads unequally, so they "
                "cannot go in whole groups; use sparsity.unit=head, and a criterion that removes single heads."
            )
    return {name: site.heads // site.key_heads for name, site in sites.items()}
