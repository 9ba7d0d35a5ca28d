"""A curve whose rows were computed under different versions of the packages is told, not refused."""

import warnings
from collections.abc import Iterable
from typing import Any

import orjson
import pandas as pd

from analysis.labels import SETTING
from hies.errors import RowsWarning


def warn_of_versions(found: pd.DataFrame) -> None:
    """One RowsWarning for each experiment with such a curve; it names the packages, their versions and one curve.

    found: a line a run, with the name of its curve.
    """
    found = found.assign(said=found["versions"].map(orjson.dumps))
    mixed = found[found.groupby([*SETTING, "curve"])["said"].transform("nunique") > 1]
    for experiment, part in mixed.groupby("experiment"):
        differing: dict[str, set[str]] = {}
        for _, curve in part.groupby([*SETTING, "curve"]):
            for package, versions in _differing(curve["versions"]):
                differing.setdefault(package, set()).update(versions)
        if differing:
            names = "; ".join(f"{package} {' and '.join(sorted(differing[package]))}" for package in sorted(differing))
            one = part.iloc[0]
            message = (
                f"{experiment}: rows of one curve were computed under different versions ({names}), "
                f"for example {one['curve']} of {one['model']} on {one['task']}."
            )
            warnings.warn(message, RowsWarning, stacklevel=3)


def _differing(records: Iterable[dict[str, Any]]) -> list[tuple[str, set[str]]]:
    """The packages of which these records name several versions; a record may lack some."""
    records = list(records)
    every = {package: {str(one.get(package, "unknown")) for one in records} for one in records for package in one}
    return [(package, versions) for package, versions in every.items() if len(versions) > 1]
