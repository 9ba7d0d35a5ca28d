"""Statistics of heads, by name, as one calibration pass gives them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

import hies
from hies.errors import HiesError
from hies.heads.sites import SiteTensors, join, split
from hies.scoring.entropy_kinds import Entropy
from hies.storage import source_of

# What three statistics are called in files; the name of any other follows a prefix.
IN_FILES = {"his": "gradient", "ae": "entropy", "l2": "weight_norm"}
PREFIX_IN_FILES = "other/"


@dataclass(frozen=True, repr=False)
class Statistics:
    """The statistics of one calibration set: a mapping statistic -> site -> tensor, float64 on the CPU.

    Of single examples, [examples, heads]: `his`, the signed gradient dL(x)/dm_h; `his_token`, the sum over tokens of
    the absolute gradient of a gate per token; `ae`, the attention entropy AE_h(x) in [0, 1], and other entropies by
    `Entropy.need`; `output_norm`, the mean over tokens of the norm of a head's output. An entropy or a norm is NaN
    where no token of an example has one, and a gradient 0 where the example does not reach the head (a vision tower's,
    without a picture). One number a head, [heads]: `l2`, the norm of its weights, and the statistics
    that methods bring, such as `greedy`, `fluctuation` and `taylor/...`.

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

    def __repr__(self) -> str:
        sizes = set(self.heads.values())
        heads = f"x {sizes.pop()} heads" if len(sizes) == 1 else f"with {sum(self.heads.values())} heads"
        names = ", ".join(sorted(self.tensors)) or "no statistics"
        return f"Statistics({len(self.heads)} sites {heads}, {self.examples} examples: {names})"

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
        return {site: hies.equations.mean_over_examples(values) for site, values in self[kind.need].items()}

    def of_sites(self, sites: Collection[str]) -> "Statistics":
        """Returns the statistics of some sites alone."""
        tensors = {name: {site: by_site[site] for site in sites} for name, by_site in self.tensors.items()}
        return replace(self, heads={site: self.heads[site] for site in sites}, tensors=tensors)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns arrays as numpy can write them: each statistic joined over the sites, [..., heads of the model]."""
        arrays = {
            "sites": np.array(list(self.heads)),
            "heads": np.array(list(self.heads.values())),
            "examples": np.array(self.examples),
            "seconds": np.array(self.seconds),
        }
        names = {name: IN_FILES.get(name, PREFIX_IN_FILES + name) for name in self.tensors if name in self}
        return arrays | {in_files: join(self.tensors[name]).numpy() for name, in_files in names.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Statistics":
        """Returns the statistics of `to_arrays`."""
        import torch

        heads = {str(site): int(count) for site, count in zip(arrays["sites"], arrays["heads"], strict=True)}
        names = {in_files: name for name, in_files in IN_FILES.items() if in_files in arrays}
        names |= {name: name.removeprefix(PREFIX_IN_FILES) for name in arrays if name.startswith(PREFIX_IN_FILES)}
        tensors = {name: split(torch.from_numpy(arrays[in_files]), heads) for in_files, name in names.items()}
        return cls(heads, int(arrays["examples"]), tensors, float(arrays["seconds"]))


@dataclass(frozen=True)
class MethodStatistic:
    """A statistic that comes with a method, found by passes of its own after the calibration pass.

    Attributes:
        collect: `module:function` of (model, batches, loss, progress) -> {name: {site: [heads]}}, imported when it is
            needed; the names are that of the statistic, or begin with it and a slash.
        search_passes: number of heads -> passes over the calibration set, for a search among the masks of all heads of
            the model; None for anything else, which counts as one pass.
        reads_loss: it needs the loss of the examples, and so their labels.
    """

    collect: str
    search_passes: Callable[[int], int] | None = None
    reads_loss: bool = True


METHOD_STATISTICS: dict[str, MethodStatistic] = {}  # by what `need` calls them; `hies.methods` fills it


def searches(need: Collection[str]) -> dict[str, Callable[[int], int]]:
    """Returns the statistics among those needed that are found by a search among masks, with their `search_passes`."""
    brought = {name: METHOD_STATISTICS[name].search_passes for name in sorted(need) if name in METHOD_STATISTICS}
    return {name: passes for name, passes in brought.items() if passes}


def outside_sources(need: Collection[str]) -> list[str]:
    """Returns digests of the code of those statistics among the needed that come with a method from outside."""
    modules = [METHOD_STATISTICS[name].collect.partition(":")[0] for name in sorted(need) if name in METHOD_STATISTICS]
    return [source for module in modules if (source := source_of(module))]


def passes_of(need: Collection[str], heads: int) -> int:
    """Returns how many passes over the calibration set these statistics take in a model of so many heads."""
    return max((passes(heads) for passes in searches(need).values()), default=1)
