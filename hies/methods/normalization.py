"""Ways to bring two kinds of score onto one scale before they are added."""

from hies import equations
from hies.heads.sites import SiteTensors, join, split

NORMALIZATIONS = ("global", "layer", "rank")


def normalize(values: SiteTensors, how: str) -> SiteTensors:
    """Scores in [0, 1], {site: [heads]}.

    `global`: min-max over all heads of the model (section 4.1). `layer`: min-max within each site. `rank`: the share of
    the other heads that score lower, equal scores counted half.
    """
    if how == "layer":
        return {site: equations.min_max(tensor) for site, tensor in values.items()}
    joined = join(values)
    if how == "global":
        return split(equations.min_max(joined), values)
    lower = (joined[None, :] < joined[:, None]).sum(dim=1)
    equal = (joined[None, :] == joined[:, None]).sum(dim=1) - 1
    ranks = (lower.double() + equal / 2) / max(len(joined) - 1, 1)
    return split(ranks.masked_fill(joined.isnan(), float("nan")), values)
