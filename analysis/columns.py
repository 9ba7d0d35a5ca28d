"""Rows of runs -> columns, made for a hundred thousand rows: what all rows of a run share is held once for the run."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hies.runs.schema import PER_RATIO, Row

NOTHING = float("nan")  # what pandas puts where a row lacks a key


@dataclass(frozen=True)
class Table:
    """A frame of rows in two parts."""

    names: list[str]  # the columns of the whole, in the order in which they turned up
    runs: pd.DataFrame  # a line a run
    ratios: pd.DataFrame  # a line a row, of what differs from ratio to ratio
    place: np.ndarray  # [rows], int: the line of each row's run in `runs`

    def with_runs(self, runs: pd.DataFrame) -> "Table":
        """The same with other columns of runs, or with runs that were left out."""
        kept = np.isin(self.place, runs.index)
        return replace(self, runs=runs, ratios=self.ratios[kept], place=self.place[kept])

    def whole(self, order: list[str], last: str) -> pd.DataFrame:
        """A line a row, ordered by these columns of the runs and by `last`, a column of the ratios."""
        rank = self.runs.groupby(order).ngroup()
        lines = np.lexsort((self.ratios[last], rank[self.place]))
        parts = [self.runs.loc[self.place[lines]], self.ratios.iloc[lines]]
        rows = pd.concat([part.reset_index(drop=True) for part in parts], axis=1)
        return rows[[*self.names, *(name for name in self.runs if name not in self.names)]]


def table_of(runs: Iterable[list[Row]]) -> Table:
    """The rows of all runs, which are emptied. Rows of one run that differ in a knob count as several runs."""
    names: Row = {}
    shared: list[Row] = []
    ratios: list[list[object]] = []
    place: list[int] = []
    for rows in runs:
        names.update(rows[0])
        for row in rows:
            ratios.append([row.pop(key, NOTHING) for key in PER_RATIO])
            if not shared or row != shared[-1]:
                shared.append(row)
                names.update(row)
            place.append(len(shared) - 1)
    common = [name for name in names if name not in PER_RATIO]
    values = [[row.get(name, NOTHING) for name in common] for row in shared]
    own = _frame(PER_RATIO, ratios)
    own = own[[name for name in PER_RATIO if name in names or own[name].notna().any()]]
    return Table([*names, *(name for name in own if name not in names)], _frame(common, values), own, np.array(place))


@contextmanager
def without_collecting() -> Iterator[None]:
    """Pause the garbage collector, which would look through all rows again and again while they are read."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()  # with the next line: nothing of what is there is looked at before the next full collection
            gc.unfreeze()
            gc.enable()


def _frame(names: Iterable[str], lines: list[list[object]]) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(names, zip(*lines, strict=True), strict=False)), columns=[*names])
