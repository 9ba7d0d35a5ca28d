"""Which reduction of HIS, which entropy, which scale and combination of HIES wins: each curve minus its references."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from analysis.errors import Unavailable
from analysis.stats.pairing import PROTOCOL_KEYS, one_calibration_size, with_references
from analysis.stats.significance import DRAWS, ESTIMATE, ChosenRatios, curve_differences, estimates, of_measures
from analysis.text import labels
from analysis.text.measures import IN_PERCENT

# The knobs whose defaults are the definitions of the paper.
VARIED = ("reduction", "entropy", "normalize", "combination", "placebo", "calibration_examples", "calibration_labels")
# Two forms of HIES that are compared also share the way to their alpha and what entropy is added to.
ALPHA_KEYS = ["criterion", "alpha", "importance", "prior_examples", *labels.TUNING_WORDS]


def nearly_all(ratios: np.ndarray) -> np.ndarray:
    """Returns where over 90 % are removed: few heads are left, and answers are of one class."""
    return ratios > 0.9 + 1e-9


WINDOWS: dict[str, ChosenRatios] = {
    "30 to 90 %": lambda ratios: (ratios >= 0.3 - 1e-9) & ~nearly_all(ratios),
    "up to 10 %": lambda ratios: ratios <= 0.1 + 1e-9,
    "over 90 %": nearly_all,
}
NO_REFERENCE = "no reference"
COMPARISON = ["criterion", "against", "task", "tasks", "measure", "removed", "ratios", *ESTIMATE]


def compare(rows: pd.DataFrame, draws: int = DRAWS, measures: Sequence[str] = IN_PERCENT) -> pd.DataFrame:
    """Returns each curve minus its references in these measures, for every task and the mean over tasks.

    The reference of a curve is the paper's form of its criterion with the same alpha; HIES is also compared with every
    curve of HIS. The comparisons with the paper's HIS come first, then those with HIES, with other forms of HIS, and
    with AE. Columns, COMPARISON: removed (the ratios whose mean it is, a key of WINDOWS), tasks (how many a mean is
    over), verdict (that of the interval, `no reference`, or nothing where the metric is undefined).

    Raises:
        Unavailable: there are only the paper's forms, no curve has a reference, or the rows do not allow a bootstrap.
    """
    rows = one_calibration_size(rows)
    jobs = rows[rows["ratio"] > 0].drop_duplicates("path")
    jobs = jobs.assign(paper=is_paper(jobs))
    if jobs["paper"].all():
        raise Unavailable("all its curves are the paper's forms of their criteria, so there is nothing to compare")
    pairs = _with_paper_forms(jobs)
    wanted = _wanted(jobs, pairs)
    if pairs.empty:
        lacking = "; ".join(f"{curve} needs {against}" for curve, against in wanted)
        raise Unavailable(f"no curve has its reference on the same seeds: {lacking}")
    gains = curve_differences(rows, pairs, draws)
    of_measures(gains, measures)  # there are some; the others tell which comparisons lack their reference
    windows = {removed: at for removed, at in WINDOWS.items() if any(at(gain.ratios).any() for gain in gains)}
    lines: list[dict[str, object]] = []
    for curve, against in wanted:
        of_pair = [gain for gain in gains if (gain.curve, gain.against) == (curve, against)]
        for measure in measures:
            lines += estimates([gain for gain in of_pair if gain.measure == measure], windows)
        without = set(jobs.loc[jobs["curve"] == curve, "task"]) - {gain.task for gain in of_pair}
        line = {"criterion": curve, "against": against, "tasks": 0, "seeds": 0, "verdict": NO_REFERENCE}
        lines += [{**line, "measure": measure, "window": removed, "task": task}
                  for measure, removed, task in product(measures, windows, labels.ordered_tasks(without))]  # fmt: skip
    return pd.DataFrame(lines).rename(columns={"window": "removed"}).reindex(columns=COMPARISON)


def is_paper(rows: pd.DataFrame) -> pd.Series:
    """Returns whether reduction, entropy, scale and combination are the paper's, or no knobs of the criterion."""
    other = [rows[knob].notna() & (rows[knob] != labels.KNOB_DEFAULTS[knob]) for knob in VARIED if knob in rows]
    return ~np.logical_or.reduce(other) if other else pd.Series(True, index=rows.index)


def _with_paper_forms(jobs: pd.DataFrame) -> pd.DataFrame:
    """A line for each job and each of its references of the same seed."""
    shared = [key for key in PROTOCOL_KEYS if key not in VARIED]
    own = with_references(jobs[~jobs["paper"]], jobs[jobs["paper"]], [*shared, *ALPHA_KEYS])
    hies, his = jobs[jobs["criterion"] == "hies"], jobs[jobs["criterion"] == "his"]
    # HIS of other examples says nothing of HIES on these.
    forms = with_references(hies, his[~his["paper"]], PROTOCOL_KEYS)
    return pd.concat([own, with_references(hies, his[his["paper"]], shared), forms], ignore_index=True)


def _wanted(jobs: pd.DataFrame, pairs: pd.DataFrame) -> list[tuple[str, str]]:
    """Each curve with the names of its references, also of those that no task has; the paper's HIS first."""
    paper = jobs[jobs["paper"]].drop_duplicates("curve").set_index("curve")["criterion"]
    wanted = set(zip(pairs["curve"], pairs["against"], strict=True))
    for row in jobs.drop_duplicates("curve").to_dict("records"):
        there = {paper.get(against) for curve, against in wanted if curve == row["curve"]}
        needed = [] if row["paper"] else [row["criterion"]]
        needed += ["his"] if row["criterion"] == "hies" else []
        wanted |= {(row["curve"], _paper_name(one, row)) for one in needed if one not in there}
    curves = labels.ordered_curves(jobs)

    def place(pair: tuple[str, str]) -> tuple[bool, int, int]:
        curve, against = pair
        at = curves.index(against) if against in curves else len(curves)
        return paper.get(against) != "his", at, curves.index(curve)

    return sorted(wanted, key=place)


def _paper_name(criterion: str, row: dict[str, object]) -> str:
    """The curve that the paper's form of a criterion would have beside this row."""
    knobs = ["scope", "schedule", "min_heads_per_layer"]
    knobs += ["alpha", "importance", "prior_examples"] if criterion == row["criterion"] else []
    return labels.label(criterion, {knob: row[knob] for knob in knobs if knob in row})
