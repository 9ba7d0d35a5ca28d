"""From a configuration to the heads that go at each ratio; alpha is chosen on the way where the criterion asks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.config.schema import Config
from hies.equations import removal_count
from hies.errors import HiesError
from hies.evaluation.evaluator import Workbench
from hies.heads.sites import Removed, SiteTensors, join
from hies.methods import HIES, Criterion, Method
from hies.methods.alpha import PROTOCOLS, best_per_ratio, best_per_task
from hies.pruning.selection import group_sizes, select_iteratively
from hies.scoring.statistics import Statistics

Tick = Callable[[], None]  # called for every mask that the model was asked about


@dataclass(frozen=True)
class Plan:
    """masks: ratio -> heads that go, 0 first; ratios beyond what the criterion can remove are left out.

    notes: ratio -> what a row says besides. arrays: scores and sites. seconds: what the calibration pass took that the
    scores come from. A method that yields no scores removes no heads, and has no arrays but the sites.
    """

    masks: dict[float, Removed]
    notes: dict[float, dict[str, Any]]
    arrays: dict[str, np.ndarray] = field(repr=False)
    seconds: float


def make_plan(config: Config, bench: Workbench, tick: Tick) -> Plan:
    """The masks of a job; the scores kept in `arrays` are those at the alpha of the ratio nearest to 1/2."""
    ratios = sorted({0.0, *config.sparsity.ratios})
    if isinstance(config.criterion, Method):
        nothing: dict[float, Removed] = {ratio: {} for ratio in ratios}
        return Plan(nothing, {ratio: {} for ratio in ratios}, _sites_of(bench), 0.0)
    if not isinstance(config.criterion, HIES):
        scoring = Scoring(config, bench, config.criterion, config.seed)
        return Plan({0.0: {}} | scoring.masks(), {ratio: {} for ratio in ratios}, scoring.arrays(), scoring.seconds)
    alphas = chosen_alphas(config, bench, tick)
    scorings = {
        alpha: Scoring(config, bench, config.criterion.at(alpha), config.seed) for alpha in sorted({*alphas.values()})
    }
    masks = {alpha: scoring.masks() for alpha, scoring in scorings.items()}
    shown = scorings[alphas[min(alphas, key=lambda ratio: abs(ratio - 0.5))]]
    return Plan(
        {ratio: masks[alphas[ratio]][ratio] if ratio else {} for ratio in ratios},
        {ratio: {"alpha_used": alphas[ratio] if ratio else None} for ratio in ratios},
        shown.arrays(),
        shown.seconds,
    )


def _sites_of(bench: Workbench) -> dict[str, np.ndarray]:
    heads = {name: site.heads for name, site in bench.sites.items()}
    return {"sites": np.array(list(heads)), "heads": np.array(list(heads.values()))}


def tuning_steps(config: Config) -> int:
    """How many masks are looked at to choose alpha."""
    criterion = config.criterion
    if not isinstance(criterion, HIES) or not isinstance(criterion.alpha, str):
        return 0
    return len(_tuning_seeds(config)) * len(criterion.alphas) * len(_pruned(config))


def chosen_alphas(config: Config, bench: Workbench, tick: Tick) -> dict[float, float]:
    """ratio -> alpha, for every ratio of the sparsity configuration."""
    criterion: HIES = config.criterion
    ratios, pruned = config.sparsity.ratios, _pruned(config)
    if not isinstance(criterion.alpha, str):
        return dict.fromkeys(ratios, float(criterion.alpha))
    if not pruned:  # nothing depends on alpha
        return dict.fromkeys(ratios, max(criterion.alphas))
    values = torch.stack([_values(config, bench, seed, pruned, tick) for seed in _tuning_seeds(config)]).mean(dim=0)
    _, single = PROTOCOLS[criterion.alpha]
    if single:
        return dict.fromkeys(ratios, best_per_task(values, pruned, criterion.alphas))
    found = dict(zip(pruned, best_per_ratio(values, criterion.alphas), strict=True))
    return {ratio: found.get(ratio, found[pruned[0]]) for ratio in ratios}


def _values(config: Config, bench: Workbench, seed: int, ratios: list[float], tick: Tick) -> Tensor:
    """What decides between alphas, higher is better, for one calibration draw: [alphas, ratios], float64."""
    criterion: HIES = config.criterion
    split, _ = PROTOCOLS[str(criterion.alpha)]
    values = torch.empty(len(criterion.alphas), len(ratios), dtype=torch.float64)
    for row, alpha in enumerate(criterion.alphas):
        masks = Scoring(config, bench, criterion.at(alpha), seed).masks()
        for column, ratio in enumerate(ratios):
            bench.tally.naive += config.calibration.size
            if split is None:
                bench.tally.naive += config.calibration.size
                values[row, column] = -bench.calibration_loss(masks[ratio], seed, config.calibration.size)
            else:
                values[row, column] = _quality(config, bench, masks[ratio], split)
            tick()
    return values


def _quality(config: Config, bench: Workbench, removed: Removed, split: str) -> float:
    """What a mask is worth on the split that alpha is chosen on; where pruning leaves it undefined, it is worth 0."""
    examples, there = config.criterion.tuning_examples, len(bench.labels(split))
    bench.tally.naive += min(there, examples or there)
    quality = bench.quality(removed, split, examples)
    if quality is None and bench.quality({}, split, examples) is None:
        raise HiesError(
            f"criterion.alpha is {config.criterion.alpha!r}, which chooses by quality, but task={config.task.name} has "
            "none here even without pruning; give a number, as in criterion.alpha=0.9."
        )
    return 0.0 if quality is None else quality


def _tuning_seeds(config: Config) -> list[int]:
    """The calibration draws over which the deciding quality is averaged; the loss is that of the job's own draw."""
    split, _ = PROTOCOLS[config.criterion.alpha]
    return [config.seed] if split is None else list(range(config.criterion.tuning_seeds))


def _pruned(config: Config) -> list[float]:
    return sorted({ratio for ratio in config.sparsity.ratios if ratio > 0})


class Scoring:
    """The scores of a criterion for one calibration draw, and the masks that follow from them."""

    def __init__(self, config: Config, bench: Workbench, criterion: Criterion, seed: int) -> None:
        self.config, self.bench, self.criterion, self.seed = config, bench, criterion, seed
        self.statistics = self._collect({})
        self.seconds = self.statistics.seconds
        self.scores: SiteTensors = criterion(self.statistics)

    def masks(self) -> dict[float, Removed]:
        """The heads that go at each ratio of the sparsity configuration, smallest ratio first."""
        sparsity = self.config.sparsity
        if self.criterion.selects:
            groups = group_sizes(self.bench.sites)
            ratios = self._possible(sorted(sparsity.ratios))
            return {ratio: self.criterion.select(self.scores, ratio, groups) for ratio in ratios}
        groups = group_sizes(self.bench.sites) if sparsity.unit == "kv_group" else {}
        if sparsity.schedule == "iterative":
            return select_iteratively(self._score, sparsity.ratios, sparsity.step, sparsity, groups)
        return {ratio: sparsity.select(self.scores, ratio, groups) for ratio in sorted(sparsity.ratios)}

    def _possible(self, ratios: list[float]) -> list[float]:
        """The ratios that the criterion can remove; HiesError if it is none of them."""
        heads = self.statistics.heads
        most, total = self.criterion.most(heads), sum(heads.values())
        possible = [ratio for ratio in ratios if removal_count(ratio, total) <= round(most * total)]
        if not possible:
            raise HiesError(
                f"sparsity.ratios is {ratios}, but {self.criterion.name} can remove at most {most:.3f} of the heads of "
                "this model; give smaller ratios, or keep fewer layers whole."
            )
        return possible

    def arrays(self) -> dict[str, np.ndarray]:
        """Scores of all heads in order of depth, and how many heads each site has."""
        heads = self.statistics.heads
        found = {"scores": self.scores}
        if self.statistics.gradient:
            found["his"] = self.statistics.his
        if self.statistics.entropy:
            found["ae"] = self.statistics.ae
        flat = {name: join(tensors).to(torch.float64).numpy() for name, tensors in found.items()}
        return {"sites": np.array(list(heads)), "heads": np.array(list(heads.values()))} | flat

    def _score(self, removed: Removed) -> SiteTensors:
        return self.criterion(self._collect(removed)) if removed else self.scores

    def _collect(self, removed: Removed) -> Statistics:
        size = self.config.calibration.size
        return self.bench.statistics(self.criterion.need, self.seed, size, removed)
