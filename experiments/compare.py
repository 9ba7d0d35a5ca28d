"""What differs between two computations of one run: masks, measures, answers and scores; times do not count.

Losses that the one before has not got, as rows of before they were measured, are none that differ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hies.runs.files import Row
from hies.runs.folders import SCORES
from hies.runs.schema import LOSSES, TOKEN_KEYS

# Not results of a run: when and where it was computed, by what, and how its file is kept.
ASIDE = (
    *("score_seconds", "eval_seconds", *TOKEN_KEYS),
    *("revision", "versions", "command", "rows", "digest", "path", "experiment"),
)
ANSWERS = "predictions"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """A computation of a run.

    Attributes:
        rows: one a ratio.
        arrays: as `hies.runs.folders.read_arrays` gives them; empty where the run has none.
    """

    rows: list[Row]
    arrays: Arrays


def run_differences(before: Run, now: Run) -> list[str]:
    """Returns a line for each ratio, array or list of ratios that is not the same; empty where all is."""
    ratios, others = ([row["ratio"] for row in run.rows] for run in (before, now))
    found = [] if ratios == others else [f"ratios: {ratios} before, {others} now"]
    for place, row in enumerate(before.rows):
        if row["ratio"] in others:
            again = others.index(row["ratio"])
            said = [*_of_rows(row, now.rows[again]), *_of_answers(before.arrays, now.arrays, place, again)]
            found += [f"ratio {row['ratio']:g}: {'; '.join(said)}"] if said else []
    return found + _of_arrays(before.arrays, now.arrays)


def version_warnings(before: Row, now: Row) -> list[str]:
    """Returns a sentence for each version that is another, and one for another state of the code."""
    theirs, ours = (row["versions"] if isinstance(row["versions"], dict) else {} for row in (before, now))
    found = [
        f"{package} is {ours.get(package, 'not there')}, and the rows were computed with "
        f"{theirs.get(package, 'one that they do not name')}."
        for package in sorted({*theirs, *ours})
        if theirs.get(package) != ours.get(package)
    ]
    if before["revision"] != now["revision"]:
        found.append(f"The code is at revision {now['revision']}, and the rows were computed at {before['revision']}.")
    if str(before["revision"]).endswith("+"):
        found.append(f"Revision {before['revision']} was a changed tree, so the code of the rows may be in no commit.")
    return found


def _of_rows(before: Row, now: Row) -> list[str]:
    one, other = (
        {(site, head) for site, heads in mask.items() for head in heads}
        for mask in (before["mask"], now.get("mask", {}))
    )
    said = [f"{len(one ^ other)} heads are in one mask and not in the other"] if one != other else []
    aside = (*ASIDE, "mask", "ratio", *(key for key in LOSSES.values() if before.get(key) is None))
    keys = [key for key in before if key not in aside and before[key] != now.get(key)]
    return said + [f"{key} {before[key]} before, {now.get(key)} now" for key in keys]


def _of_answers(before: Arrays, now: Arrays, place: int, again: int) -> list[str]:
    if ANSWERS not in before or ANSWERS not in now:
        return []
    one, other = before[ANSWERS][place], now[ANSWERS][again]
    if one.shape != other.shape:
        return [f"{len(one)} answers before, {len(other)} now"]
    changed = int(_unequal(one, other).sum())
    return [f"{changed} of {len(one)} answers changed"] if changed else []


def _of_arrays(before: Arrays, now: Arrays) -> list[str]:
    found = []
    lacking = {*LOSSES} - {*before}
    for name in sorted({*before, *now} - {ANSWERS, "ratios"} - lacking if before else ()):
        if name not in before or name not in now:
            found.append(f"{name}: only there {'before' if name in before else 'now'}")
        elif before[name].shape != now[name].shape:
            found.append(f"{name}: shape {before[name].shape} before, {now[name].shape} now")
        elif (_unequal(before[name], now[name]) & _known(name, before[name])).any():
            measured = name in (*SCORES, *LOSSES)
            found.append(f"{name}: {_largest(before[name], now[name]) if measured else 'not the same'}")
    return found


def _largest(before: np.ndarray, now: np.ndarray) -> str:
    difference = np.nanmax(np.abs(before.astype(np.float64) - now.astype(np.float64)))
    return f"largest difference {difference:.2g}, where the largest is {np.nanmax(np.abs(before)):.2g}"


def _known(name: str, before: np.ndarray) -> Any:
    """What can differ: of losses those of ratios that have any."""
    return ~np.isnan(before).all(axis=-1, keepdims=True) if name in LOSSES else True


def _unequal(one: np.ndarray, other: np.ndarray) -> Any:
    """Element by element; answers that are no numbers on both sides are equal."""
    unequal = one != other
    if one.dtype.kind == other.dtype.kind == "f":
        unequal &= ~(np.isnan(one) & np.isnan(other))
    return unequal
