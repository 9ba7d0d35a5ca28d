"""Statistics of heads, by name, as one calibration pass gives them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

import hies
from hies.errors import HiesError
from hies.heads.sites import SiteTensors
from hies.scoring.entropy_kinds import Entropy


@dataclass(frozen=True)
class Statistics:
    """The statistics of one calibration set: a mapping statistic -> site -> tensor, float64 on the CPU.

    Of single examples, [examples, heads]: `his`, the signed gradient dL(x)/dm_h; `his_token`, the sum over tokens of
    the absolute gradient of a gate per token; `ae`, the attention entropy AE_h(x) in [0, 1], and other entropies by
    `Entropy.need`; `output_norm`, the mean over tokens of the norm of a head's output. An entropy or a norm is NaN
    where no token of an example has one. One number a head, [heads]: `l2`, the norm of its weights, and the statistics
    that methods bring, such as `greedy` and `taylor/...`.

    Attributes:
        heads: site -> its number of heads, always there.
        examples: how many calibration examples there were.
        tensors: statistic -> site -> tensor, those that were collected.
        seconds: what the pass took.
    """

    heads: dict[str, int]
    examples: int
    tensors: dict[str, SiteTensors] = field(default_factory=dict)
    seconds: float = 0.0

    def __getitem__(self, name: str) -> SiteTensors:
        if not self.tensors.get(name):
            need = name.partition("/")[0]
            raise HiesError(f"The statistic {need!r} was not collected; call hies.collect(..., need=({need!r},)).")
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return bool(self.tensors.get(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    @property
    def his(self) -> SiteTensors:
        """HIS of equation 1, {site: [heads]}."""
        return {site: hies.equations.head_importance(gradients) for site, gradients in self["his"].items()}

    @property
    def ae(self) -> SiteTensors:
        """AE of appendix B.2.1, in [0, 1], {site: [heads]}."""
        return self.mean_entropy(Entropy())

    @property
    def l2(self) -> SiteTensors:
        """Norm of each head's query, key and value rows and output columns, {site: [heads]}."""
        return self["l2"]

    def mean_entropy(self, kind: Entropy) -> SiteTensors:
        """Returns AE with an entropy of this kind in the place of Shannon's, in [0, 1], {site: [heads]}."""
        return {site: hies.equations.attention_entropy(values) for site, values in self[kind.need].items()}

    def of_sites(self, sites: Collection[str]) -> "Statistics":
        """Returns the statistics of some sites alone."""
        tensors = {name: {site: by_site[site] for site in sites} for name, by_site in self.tensors.items()}
        return replace(self, heads={site: self.heads[site] for site in sites}, tensors=tensors)


@dataclass(frozen=True)
class MethodStatistic:
    """A statistic that comes with a method, found by passes of its own after the calibration pass.

    Attributes:
        name: what `need` calls it.
        collect: (model, batches, loss, progress) -> {name: {site: [heads]}}, under names that begin with `name` and a
            slash if there are several.
        search_passes: number of heads -> passes over the calibration set, for a search among the masks of all heads of
            the model; None for anything else, which counts as one pass.
    """

    name: str
    collect: Callable[..., dict[str, SiteTensors]]
    search_passes: Callable[[int], int] | None = None


METHOD_STATISTICS: dict[str, MethodStatistic] = {}  # by name; `hies.methods` fills it


def register_statistic(statistic: MethodStatistic) -> None:
    """Makes a method's statistic known to `hies.collect` by its name."""
    METHOD_STATISTICS[statistic.name] = statistic


def searches(need: Collection[str]) -> list[MethodStatistic]:
    """Returns the statistics among those needed that are found by a search among masks."""
    brought = (METHOD_STATISTICS[name] for name in sorted(need) if name in METHOD_STATISTICS)
    return [statistic for statistic in brought if statistic.search_passes]


def passes_of(need: Collection[str], heads: int) -> int:
    """Returns how many passes over the calibration set these statistics take in a model of so many heads."""
    return max((found.search_passes(heads) for found in searches(need) if found.search_passes), default=1)
