"""The contract of everything that prunes, and of the methods among it that score heads.

Modules of methods declare knobs and import nothing that computes: they reach it as `hies.<name>`, which is imported
when it is first used, or import it in the function that needs it.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import hies
from hies.errors import HiesError, ParameterError
from hies.heads.sites import Removed, Site, SiteTensors, join
from hies.methods.planning import AppliedMethod, Draw, MaskedHeads, ModelOnTask, Plan, Tick, arrays_of_sites
from hies.pruning.selection import Score, Selection
from hies.scoring.statistics import Statistics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hies.batching import Batch, Encoded


@dataclass(frozen=True)
class Calibration:
    """What a model is pruned by.

    Attributes:
        batches: the labelled calibration examples.
        train: all training examples, for methods that tune the pruned model.
        seed: of everything random.
        precision: of the matrix products of tuning, see `hies.precision.computing`.
    """

    batches: "Sequence[Batch]"
    train: "Encoded | None" = None
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.batches, Mapping):
            raise HiesError("batches is a single dict; give a list of them, such as [batch].")
        object.__setattr__(self, "batches", list(self.batches))  # methods read them more than once
        if not self.batches:
            raise HiesError("batches is empty; a model is pruned by at least one calibration example.")


def nothing() -> None:
    """Does nothing, for progress that nobody watches."""


@dataclass(frozen=True)
class Method(ABC):
    """A way to prune. Subclasses are plain dataclasses whose fields are its knobs.

    The ratio is the share of the attention weights that is removed, the same share whatever the method cuts.

    Attributes:
        name: of the method, everywhere.
        removes_heads: it removes heads, so that its result is a mask; else it changes the model in its own way.
    """

    name: ClassVar[str]
    removes_heads: ClassVar[bool] = False

    @property
    def need(self) -> frozenset[str]:
        """The statistics that `hies.collect` has to find for these knobs."""
        return frozenset()

    @property
    def tunes(self) -> bool:
        """Whether it takes `Calibration.train`."""
        return False

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that the result depends on, by name."""
        return asdict(self)

    @abstractmethod
    def check(self, model: "PreTrainedModel") -> None:
        """Raises UnsupportedModelError, before any work, where the structure of a model does not suit the method."""

    def check_selection(self, selection: Selection) -> None:
        """Raises ParameterError for a rule that the method does not follow; one that removes its own way takes none."""
        for rule in fields(Selection):
            if (value := getattr(selection, rule.name)) != rule.default:
                expected = f"{self.name} has its own way to remove, so leave it at {rule.default!r}"
                raise ParameterError(rule.name, value, expected)

    @abstractmethod
    def pruned(
        self, model: "PreTrainedModel", calibration: Calibration, ratio: float
    ) -> "AbstractContextManager[PreTrainedModel]":
        """Gives a pruned model inside the block; `model` is bit for bit as before when the block ends.

        Args:
            model: in evaluation mode, with its classifier.
            calibration: what it is pruned by.
            ratio: share of the attention weights that is removed, in [0, 1]; 0 gives a model with the answers of
                `model`.

        Raises:
            UnsupportedModelError: see `check`.
            HiesError: a ratio outside what the method can do.
        """

    def steps(self, ratios: Sequence[float]) -> int:
        """Returns how many masks `plan` looks at, besides those of the ratios themselves."""
        return 0

    def plan(
        self, evaluator: ModelOnTask, draw: Draw, selection: Selection, ratios: Sequence[float], tick: Tick = nothing
    ) -> Plan:
        """Returns what a job evaluates, the unpruned model of ratio 0 first.

        Args:
            evaluator: the model on its task.
            draw: the calibration set.
            selection: the rules by which scores become masks; see `check_selection`.
            ratios: each in [0, 1].
            tick: called `steps` times.

        Raises:
            HiesError: no ratio that the model can be pruned at, or what the method needs is undefined.
        """
        applied = {ratio: AppliedMethod(self, ratio, draw) for ratio in sorted({*ratios} - {0.0})}
        heads = {name: site.heads for name, site in evaluator.sites.items()}
        return Plan({0.0: MaskedHeads(), **applied}, {ratio: {} for ratio in (0.0, *applied)}, arrays_of_sites(heads))


@dataclass(frozen=True)
class ScoringMethod(Method):
    """A method that scores heads; a subclass adds `score`, and names the statistics that it `needs`.

    Calling it gives {site: [heads]}, float64, HIGHER = KEEP, every score finite.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    removes_heads: ClassVar[bool] = True

    @property
    def need(self) -> frozenset[str]:
        """The statistics that `hies.collect` has to find for these knobs."""
        return frozenset(self.needs)

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that the scores depend on, by name; variants of the paper's definitions only where used."""
        return used(asdict(self))

    @abstractmethod
    def score(self, statistics: Statistics) -> SiteTensors:
        """Returns scores per site, [heads], higher = keep."""

    def __call__(self, statistics: Statistics) -> SiteTensors:
        """Returns the scores, sites in the order of the statistics.

        Raises:
            HiesError: no statistics, a site without scores, another number of them than heads, or a score that is not
                finite.
        """
        if not isinstance(statistics, Statistics):
            expected = "give what hies.collect(model, batches, need) returns"
            raise ParameterError("statistics", type(statistics).__name__, expected)
        scores = self._checked(self.score(statistics), statistics.heads)
        for site, values in scores.items():
            if not values.isfinite().all():
                head = int((~values.isfinite()).nonzero()[0])
                raise HiesError(
                    f"Method {self.name!r} gave {float(values[head])} for head {head} of site {site!r}; a score "
                    "must be finite (an entropy needs calibration examples of at least two tokens)."
                )
        return scores

    def _checked(self, scores: Any, heads: Mapping[str, int]) -> SiteTensors:
        """Returns what `score` returned as float64 on the CPU, if it is one number for each head of each site."""
        import torch

        if not isinstance(scores, Mapping):
            raise HiesError(f"Method {self.name!r} gave a {type(scores).__name__}; score returns {{site: [heads]}}.")
        if odd := [site for site in (*heads, *scores) if (site in heads) != (site in scores)]:
            what = "no scores for" if odd[0] in heads else "scores for something that is no site:"
            raise HiesError(f"Method {self.name!r} gave {what} {odd[0]!r}; score returns them for every site.")
        for site, count in heads.items():
            values = scores[site]
            if not isinstance(values, torch.Tensor) or values.shape != (count,) or values.is_complex():
                shape = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
                raise HiesError(
                    f"Method {self.name!r} gave {shape} for site {site!r}, which has {count} heads; score returns one "
                    "number for each of them, a tensor [heads]."
                )
        return {site: scores[site].detach().double().cpu() for site in heads}

    def check(self, model: "PreTrainedModel") -> None:
        """Takes every model: whether its heads can be reached is seen when they are scored."""

    def check_selection(self, selection: Selection) -> None:
        """Takes every selection."""

    def masks(
        self, score: Score, ratios: Sequence[float], selection: Selection, sites: Mapping[str, Site]
    ) -> dict[float, Removed]:
        """Returns the heads that are removed at each ratio, smallest ratio first; see `Selection.masks`."""
        return selection.masks(score, ratios, sites)

    @contextlib.contextmanager
    def pruned(self, model: "PreTrainedModel", calibration: Calibration, ratio: float) -> "Iterator[PreTrainedModel]":
        """Gives the model with the heads masked that are removed at a ratio, see `Method.pruned`."""
        from hies.scoring.losses import default_loss, inputs_of

        statistics = hies.collect(model, calibration.batches, self.need)
        sites = hies.find_sites(model, inputs_of(model, calibration.batches[0], default_loss(model)))
        masks = self.masks(lambda _: self(statistics), [ratio], Selection(), sites)
        with hies.masked(model, masks[ratio]):
            yield model

    def plan(
        self, evaluator: ModelOnTask, draw: Draw, selection: Selection, ratios: Sequence[float], tick: Tick = nothing
    ) -> Plan:
        """Returns the masks of the ratios; see `Method.plan`."""
        statistics = evaluator.statistics(self.need, draw.seed, draw.size)
        scores = self(statistics)

        def score(removed: Removed) -> SiteTensors:
            return self(evaluator.statistics(self.need, draw.seed, draw.size, removed)) if removed else scores

        sites = evaluator.prunable if selection.plain else evaluator.sites
        masks = {0.0: {}, **self.masks(score, ratios, selection, sites)}
        return Plan(
            {ratio: MaskedHeads(removed) for ratio, removed in masks.items()},
            {ratio: {} for ratio in masks},
            _arrays(statistics, scores),
            statistics.seconds,
        )


def _arrays(statistics: Statistics, scores: SiteTensors) -> dict[str, np.ndarray]:
    """Returns scores and statistics of all heads in order of depth, float64, and how many heads each site has."""
    by_name = {"scores": scores}
    by_name |= {name: getattr(statistics, name) for name in ("his", "ae") if name in statistics}
    return arrays_of_sites(statistics.heads) | {name: join(heads).double().numpy() for name, heads in by_name.items()}


PAPER_KNOBS: dict[str, Any] = {
    "entropy": "shannon",
    "order": None,
    "importance": "his",
    "reduction": "example",
    "combination": "sum",
    "placebo": "none",
}


def used(knobs: dict[str, Any]) -> dict[str, Any]:
    """Returns the knobs without those that say what the paper says, or that say nothing beside the others."""
    idle = {name for name, value in knobs.items() if name in PAPER_KNOBS and value == PAPER_KNOBS[name]}
    if not str(knobs.get("reduction")).startswith("batch"):
        idle.add("reduction_batch")
    return {name: value for name, value in knobs.items() if name not in idle}
