"""How the statistics of single examples become one importance per head."""

from hies import equations
from hies.errors import HiesError
from hies.heads.sites import SiteTensors
from hies.scoring.statistics import Statistics

REDUCTIONS = ("example", "batch", "batch_l2", "token")
KINDS = ("his", "output_norm")


def check_reduction(reduction: str, batch: int) -> None:
    """Raise HiesError for a reduction or a batch size that there is not."""
    if reduction not in REDUCTIONS:
        raise HiesError(f"criterion.reduction is {reduction!r}; use {', '.join(REDUCTIONS)}.")
    if batch < 1:
        raise HiesError(f"criterion.reduction_batch is {batch}; it must be at least 1.")


def check_kind(kind: str, reduction: str) -> None:
    """Raise HiesError for an importance that there is not, or one that a reduction of gradients means nothing to."""
    if kind not in KINDS:
        raise HiesError(f"criterion.importance is {kind!r}; use {', '.join(KINDS)}.")
    if kind != "his" and reduction != "example":
        raise HiesError(
            f"criterion.reduction is {reduction!r}, which only criterion.importance=his has a use for; with {kind!r} "
            "leave it at 'example'."
        )


def statistic_of(reduction: str, kind: str = "his") -> str:
    """The statistic that an importance and a reduction start from."""
    if kind != "his":
        return kind
    return "his_token" if reduction == "token" else "his"


def importance(statistics: Statistics, reduction: str, batch: int, kind: str = "his") -> SiteTensors:
    """HIS by one of its definitions, or what stands in its place by `kind` (appendix D.9), {site: [heads]}.

    `example`: the absolute gradient of every example (equation 1). `batch`: of every batch of `batch` examples, the
    widely used code. `batch_l2`: the same over its norm within the layer. `token`: of every token (Michel et al.).
    """
    examples = statistics.examples_of(statistic_of(reduction, kind))
    if kind == "output_norm":
        return {site: equations.output_norm(values) for site, values in examples.items()}
    if reduction == "token":
        return {site: equations.token_head_importance(values) for site, values in examples.items()}
    if reduction == "example":
        return {site: equations.head_importance(values) for site, values in examples.items()}
    found = {site: equations.batched_head_importance(values, batch) for site, values in examples.items()}
    return {site: equations.layer_l2(v) for site, v in found.items()} if reduction == "batch_l2" else found
