"""Ways to bring two kinds of score onto one scale before they are added."""

import hies
from hies.heads.sites import SiteTensors, join, split

NORMALIZATIONS = ("global", "layer", "rank")


def normalize(values: SiteTensors, how: str) -> SiteTensors:
    """Returns scores in [0, 1], {site: [heads]}.

    Args:
        values: {site: [heads]}.
        how: `global`, min-max over all heads of the model (section 4.1); `layer`, min-max within each site; `rank`, the
            share of the other heads that score lower, equal scores counted half.
    """
    if how == "layer":
        return {site: hies.equations.min_max(tensor) for site, tensor in values.items()}
    joined, heads = join(values), {site: len(tensor) for site, tensor in values.items()}
    if how == "global":
        return split(hies.equations.min_max(joined), heads)
    lower = (joined[None, :] < joined[:, None]).sum(dim=1)
    equal = (joined[None, :] == joined[:, None]).sum(dim=1) - 1
    ranks = (lower.double() + equal / 2) / max(len(joined) - 1, 1)
    return split(ranks.masked_fill(joined.isnan(), float("nan")), heads)
