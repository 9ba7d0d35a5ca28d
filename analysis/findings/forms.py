"""The kinds of findings, and the curves that several of them compare."""

from dataclasses import dataclass
from typing import Literal

from analysis.text.labels import label


def hies_curve(alpha: float | str, **knobs: str | float) -> str:
    """Returns the curve of HIES with this alpha and these knobs."""
    return label("hies", {"alpha": alpha, **knobs})


HIS, AE, AD, NORM = (label(name, {}) for name in ("his", "ae", "ad", "output_norm"))
PER_RATIO, PER_TASK, AUTO, OPTIMISTIC = map(hies_curve, ("per_ratio", "per_task", "auto", "per_ratio_on_report"))
HIS_BATCH = label("his", {"reduction": "batch"})
HIES_BATCH = hies_curve("per_ratio", reduction="batch")
HIES_RANK = hies_curve("per_ratio", normalize="rank")
HIES_NORM = hies_curve("per_ratio", importance="output_norm")
FIXED = hies_curve(0.9)
OF_GROUPS = hies_curve("auto", unit="kv_group"), label("his", {"unit": "kv_group"})
SLICED, TUNED = (label("slicegpt", {"tune": tune}) for tune in (False, True))
FROM_30, AT_10 = (0.3, 0.4, 0.5, 0.6, 0.7), (0.1,)


@dataclass(frozen=True)
class Difference:
    """One curve minus another, mean over ratios and tasks.

    Attributes:
        key: by which pages name it.
        words: what it asks, for readers.
        experiment: whose rows.
        curve: the curve.
        against: the other.
        measure: see `analysis.text.measures`, or evenness.
        ratios: over which the mean is.
        table: which has it with everything around it.
        tasks: all where none is named.
        over: what chance is of, beside the examples: the draws of one checkpoint, or the checkpoints of a task.
    """

    key: str
    words: str
    experiment: str
    curve: str
    against: str
    measure: str
    ratios: tuple[float, ...]
    table: str
    tasks: tuple[str, ...] = ()
    over: Literal["draws", "checkpoints"] = "draws"


@dataclass(frozen=True)
class PaperGain:
    """HIES minus HIS as the paper prints it for BERT-base, mean over its tasks.

    Attributes:
        key: by which pages name it.
        words: for readers.
        file: of the paper's numbers.
        measure: quality or stability.
        ratio: the ratio.
    """

    key: str
    words: str
    file: str
    measure: str
    ratio: float


@dataclass(frozen=True)
class RankOfGains:
    """Spearman's correlation over tasks of a difference with the paper's gain.

    Attributes:
        gain: ours, by its key.
        paper: the paper's, by its key.
    """

    key: str
    words: str
    gain: str
    paper: str


@dataclass(frozen=True)
class SameHeads:
    """How many heads two curves both remove, of those that either does, and on how many tasks nearly all."""

    key: str
    words: str
    experiment: str
    curve: str
    against: str
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class ChosenAgain:
    """HIES minus HIS in quality where the choice of alpha is drawn as well (`analysis.stats.chosen`)."""

    key: str
    words: str
    experiment: str
    against: str
    ratios: tuple[float, ...]


Finding = Difference | PaperGain | RankOfGains | SameHeads | ChosenAgain
