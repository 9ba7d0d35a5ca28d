"""From scores to the heads that go: exact counts, stable ties, nested in the ratio."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hies import equations
from hies.errors import HiesError
from hies.sites import Removed, SiteTensors

SCOPES = ("global", "layer")
Head = tuple[str, int]


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

    def order(self, scores: Mapping[str, Tensor], gone: Collection[Head] = ()) -> list[Head]:
        """The heads not yet gone, in the order in which they go; those that always stay are not in it.

        Equal scores go by position (site by site, head by head), so equal scores give equal masks on every machine.
        With scope `layer`, the i-th head of n to leave a site has its turn at (i + 1/2) / n of the way (Webster's
        method), which keeps the exact count over the model and every mask inside that of a larger ratio.
        """
        ranked: list[tuple[float, int, int, Head]] = []
        for depth, (site, values) in enumerate(scores.items()):
            array = values.detach().cpu().double().numpy()
            left = [int(head) for head in np.argsort(array, kind="stable") if (site, int(head)) not in gone]
            already = len(array) - len(left)
            for place, head in enumerate(left[: max(len(left) - self.min_heads_per_layer, 0)]):
                turn = (already + place + 0.5) / len(array) if self.scope == "layer" else float(array[head])
                ranked.append((turn, depth, head, (site, head)))
        return [head for *_, head in sorted(ranked)]

    def select(self, scores: Mapping[str, Tensor], ratio: float) -> Removed:
        """Exactly round(ratio * heads) heads of the model, {site: sorted heads}; sites that lose nothing are left out.

        Raises:
            HiesError: a ratio outside [0, 1], a score that is not finite, or more heads asked for than may go.
        """
        return _as_removed(self.extend(scores, [], ratio))

    def extend(self, scores: Mapping[str, Tensor], already: Sequence[Head], ratio: float) -> list[Head]:
        """`already`, followed by the worst of the others, round(ratio * heads) in all."""
        if any(not values.isfinite().all() for values in scores.values()):
            raise HiesError("A score is not finite, so the heads cannot be ranked.")
        total = sum(len(values) for values in scores.values())
        count = equations.removal_count(ratio, total)
        others = self.order(scores, set(already))
        if count > len(already) + len(others):
            raise HiesError(
                f"ratio {ratio} removes {count} of {total} heads, but sparsity.min_heads_per_layer="
                f"{self.min_heads_per_layer} lets only {len(already) + len(others)} go."
            )
        return [*already, *others][:count]


def select(scores: SiteTensors, ratio: float, scope: str = "global", min_heads_per_layer: int = 0) -> Removed:
    """The heads that go at `ratio`, one shot; see `Selection` for the knobs and `Selection.select` for the errors."""
    return Selection(scope, min_heads_per_layer).select(scores, ratio)


def select_iteratively(
    score: Callable[[Removed], SiteTensors], ratios: Sequence[float], step: float, selection: Selection
) -> dict[float, Removed]:
    """Masks for several ratios, scoring again after each `step` of the heads has gone.

    What goes at a ratio does not depend on the other ratios asked for, and the masks are nested.

    Args:
        score: removed heads -> scores of all heads, computed with those heads masked.
        ratios: each in [0, 1].
        step: share of the model's heads that goes between two scorings, in (0, 1].
        selection: scope and floor.
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
            gone = selection.extend(scores, gone, done * step)
            scores = score(_as_removed(gone))
        masks[ratio] = _as_removed(selection.extend(scores, gone, ratio))
    return masks


def _as_removed(heads: Sequence[Head]) -> Removed:
    removed: Removed = {}
    for site, head in heads:
        removed.setdefault(site, []).append(head)
    return {site: sorted(chosen) for site, chosen in removed.items()}
