"""What is measured on the report split: its units, and which side of a difference is the better one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import pandas as pd

from analysis.data.chance import at_chance
from analysis.text.labels import listed_tasks, named_tasks, ordered_tasks
from hies.runs.quality import SQUARED

NATS, SQUARED_ERROR, POINTS = "nats", "squared error", "percentage points"
NORMALIZED = "quality_norm"
REFIT, CORRELATION, TEMPERED = "refit", "correlation", "tempered"  # from the answers beside the rows
QUALITY_MARGIN, STABILITY_MARGIN = 1.0, 2.0  # points; fixed before the tests of equality were first computed


@dataclass(frozen=True)
class Measure:
    """A column of rows.

    Attributes:
        words: its name for readers.
        note: a sentence for captions; nothing where the docs say it all.
        better: 1 where more of it is better, -1 where less is.
        digits: of a number, after the point.
        margin: a difference below it counts as equal; NaN where nothing was fixed.
    """

    words: str
    note: str = ""
    better: int = 1
    digits: int = 2
    margin: float = nan


MEASURE_OF = {
    "quality": Measure("quality", margin=QUALITY_MARGIN),
    "stability": Measure("stability", margin=STABILITY_MARGIN),
    NORMALIZED: Measure(
        "normalized quality",
        "Normalized: options are compared by log-likelihood a character where lm-eval does so, too (acc_norm)",
        margin=QUALITY_MARGIN,
    ),
    REFIT: Measure(
        "stability after a refit",
        "After a refit: scores are first brought to the unpruned ones by the line of least squares; of classes it is "
        "plain stability",
        margin=STABILITY_MARGIN,
    ),
    CORRELATION: Measure(
        "correlation", "Correlation: 100 r of the pruned with the unpruned scores, of tasks whose answers are scores"
    ),
    "loss": Measure(
        "loss",
        "Loss: mean cross-entropy of the right class, labels, option or, of a text, next token over the examples, in "
        "nats",
        -1,
        3,
    ),
    TEMPERED: Measure(
        "loss after a temperature",
        "After a temperature: scores of two classes are first divided by the one number that makes their mean loss on "
        "these answers least, so that how sure the model is counts no more",
        -1,
        3,
    ),
    "token_loss": Measure(
        "loss a token", "Loss a token: mean negative log-likelihood of the right option or text a token, in nats", -1, 3
    ),
}
IN_PERCENT = ("quality", "stability")  # the paper's, and what is shown unless another is asked for

ALL_MEASURES = (*IN_PERCENT, "loss")  # what studies of our own show


def measured(rows: pd.DataFrame, measures: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the measures that some row of a pruned model has a number in."""
    pruned = rows[rows["ratio"] > 0]
    return tuple(measure for measure in measures if pruned[measure].notna().any())


def measure_of(column: str) -> Measure:
    """Returns a measure; any other column is one of which more is better."""
    return MEASURE_OF.get(column, Measure(column))


def is_loss(measure: str) -> bool:
    """Returns whether less of a measure is better."""
    return measure_of(measure).better < 0


def unit(measure: str, metric: str) -> str:
    """Returns the unit of a difference in a measure on tasks of this metric."""
    if not is_loss(measure):
        return POINTS
    return SQUARED_ERROR if measure == "loss" and metric in SQUARED else NATS


def axis_label(measure: str, rows: pd.DataFrame) -> str:
    """Returns a measure with its unit on these rows."""
    return f"{MEASURE_OF[measure].words} ({_units(measure, rows) if is_loss(measure) else '%'})"


def difference_units(measures: Sequence[str], rows: pd.DataFrame) -> str:
    """Returns the units of differences in these measures on these rows, in words."""
    losses = [measure for measure in measures if is_loss(measure)]
    parts = [POINTS] if len(losses) < len(measures) else []
    words = dict.fromkeys(_units(measure, rows) for measure in losses)
    return " and of losses in ".join([*parts, *([" and ".join(words)] if words else [])])


def notes(measures: Sequence[str], rows: pd.DataFrame, differences: bool = False) -> str:
    """Returns sentences on these measures for a caption, each after a space; `differences`: it shows verdicts."""
    text = ""
    for measure in (NORMALIZED, REFIT, CORRELATION):
        text += f" {MEASURE_OF[measure].note}." if measure in measures else ""
    for measure in measures:
        if is_loss(measure):
            apart, words = [], ""
            if measure == "loss":
                apart, words = _squared(rows), "the mean squared error"
            elif measure == TEMPERED:
                apart, words = _untempered(rows), "there is none"
            some = f"; of {named_tasks(apart)} {words}" if apart else ""
            lone = ", and no part of means over tasks" if apart and len(apart) < rows["task"].nunique() else ""
            text += f" {MEASURE_OF[measure].note}{some}{lone}. Lower is better{', so ahead is lower' * differences}."
    return text + chance_note(measures, rows)


def chance_note(measures: Sequence[str], rows: pd.DataFrame) -> str:
    """Returns which tasks have no part of means of these measures, for a caption, after a space; empty if all have."""
    text = ""
    for measure in measures:
        if lost := at_chance(rows, measure):
            words = MEASURE_OF[measure].words
            text += f" Unpruned no better than a guess, and no part of means of {words}: {listed_tasks(lost)}."
    return text


def averaged(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Returns the rows of the tasks that a mean of a measure is over.

    Of losses in several units these are those in nats, of quality those on which the unpruned model is above chance,
    of losses after a temperature those of two classes.
    """
    if measure == TEMPERED:
        return rows[~rows["task"].isin(_untempered(rows))]
    units = rows["metric"].map({metric: unit(measure, metric) for metric in rows["metric"].unique()})
    some = rows if units.nunique() < 2 else rows[units == NATS]
    return some[~some["task"].isin(at_chance(some, measure))]


def _units(measure: str, rows: pd.DataFrame) -> str:
    squared = _squared(rows) if measure == "loss" else []
    if len(squared) == rows["task"].nunique():
        return SQUARED_ERROR
    return f"{NATS}; of {named_tasks(squared)} {SQUARED_ERROR}" if squared else NATS


def _untempered(rows: pd.DataFrame) -> list[str]:
    """The tasks that have no loss after a temperature; those that have none at all are no others."""
    lacking = rows[TEMPERED].isna().groupby(rows["task"]).all()
    return ordered_tasks(lacking.index[lacking]) if not lacking.all() else []


def _squared(rows: pd.DataFrame) -> list[str]:
    return ordered_tasks(rows.loc[rows["metric"].isin(SQUARED), "task"])
