"""The score file beside the rows: what every head got, by site."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import Unavailable
from hies.runs import folders
from hies.runs.schema import LOSSES

SAME_RATIO = 1e-5  # rows round ratios, arrays need not


@dataclass(frozen=True)
class Scores:
    """Flat arrays over all heads, and how they divide into sites.

    Attributes:
        sites: names of the attention modules, in order of depth.
        heads: number of heads of each site.
        values: where there are any, scores (higher = keep), his and ae, each [sum of heads].
    """

    sites: list[str]
    heads: list[int]
    values: dict[str, np.ndarray]

    def rectangle(self, name: str) -> np.ndarray:
        """Returns `values[name]` as [sites, most heads]; NaN where a site has fewer heads."""
        rectangle = np.full(self.there.shape, np.nan)
        rectangle[self.there] = self.values[name]
        return rectangle

    @property
    def there(self) -> np.ndarray:
        """Which places of such a rectangle hold a head, boolean [sites, most heads]."""
        return np.arange(max(self.heads)) < np.array(self.heads)[:, None]  # [most heads] < [sites, 1]

    def removed(self, mask: Mapping[str, list[int]]) -> np.ndarray:
        """Returns the removed heads as a boolean [sites, most heads]."""
        rectangle = np.zeros(self.there.shape, dtype=bool)
        for site, heads in mask.items():
            rectangle[self.sites.index(site), heads] = True
        return rectangle


def load_scores(row: Mapping[str, Any]) -> Scores:
    """Returns the scores of the job that a row belongs to (any row of `load`), in single precision.

    A method that removes no heads has none, and `values` is empty.

    Raises:
        Unavailable: the score file is not there, or cannot be read.
    """
    arrays = _read(row, ("sites", "heads", "scores", "his", "ae"))
    if not {"sites", "heads"} <= set(arrays):
        raise Unavailable(f"the score file of {row['path']} cannot be read")
    sites, heads = [str(site) for site in arrays.pop("sites")], [int(count) for count in arrays.pop("heads")]
    values = {name: flat.astype(float) for name, flat in arrays.items()}
    if any(len(flat) != sum(heads) for flat in values.values()):
        raise Unavailable(f"the score file of {row['path']} does not hold one score for each head")
    return Scores(sites, heads, values)


def load_arrays(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns all arrays of a row's job: `predictions` [ratios, examples], `labels` [examples], `ratios` and others.

    Predictions are classes, or scores of a regression task; the line of a ratio is its place in `ratios`. Newer runs
    have `losses`, and those of multiple choice `token_losses`, in the shape of the predictions.

    Raises:
        Unavailable: the file is not there, cannot be read, or its predictions do not fit its ratios and labels.
    """
    arrays = _read(row)
    lacking = [name for name in ("predictions", "labels", "ratios") if name not in arrays]
    if lacking:
        raise Unavailable(f"the score file of {row['path']} has no {' and no '.join(lacking)}")
    if arrays["predictions"].shape != (len(arrays["ratios"]), len(arrays["labels"])):
        raise Unavailable(f"the score file of {row['path']} does not hold one prediction for each ratio and example")
    if any(arrays[name].shape != arrays["predictions"].shape for name in LOSSES if name in arrays):
        raise Unavailable(f"the score file of {row['path']} does not hold one loss for each ratio and example")
    return arrays


def lines_at(arrays: Mapping[str, np.ndarray], name: str, ratios: Iterable[float]) -> np.ndarray:
    """Returns the lines of one of these arrays at these ratios, [ratios, examples].

    Raises:
        Unavailable: the run has no such ratio.
    """
    wanted = np.array([*ratios])
    apart = np.abs(arrays["ratios"][:, None] - wanted)  # [ratios of the run, ratios]
    if (lacking := wanted[apart.min(axis=0) > SAME_RATIO]).size:
        raise Unavailable(f"a score file has no {name} at the ratio {lacking[0]:g}")
    return arrays[name][apart.argmin(axis=0)]


def arrays_of_task(paths: Iterable[str], task: str) -> dict[str, dict[str, np.ndarray]]:
    """Returns the arrays of these runs of one task, by path.

    Raises:
        Unavailable: as `load_arrays`, or they were not evaluated on the same examples.
    """
    arrays = {path: load_arrays({"path": path}) for path in paths}
    labels = next(iter(arrays.values()))["labels"]
    for path, run in arrays.items():
        if not np.array_equal(labels, run["labels"]):
            raise Unavailable(f"{path} was evaluated on other examples than the other runs of {task}")
    return arrays


def _read(row: Mapping[str, Any], names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    try:
        return folders.read_arrays(Path(row["path"]), names)
    except FileNotFoundError:
        raise Unavailable(f"the score file of {row['path']} is missing") from None
    except folders.BadFile as problem:
        raise Unavailable(f"the score file {problem}") from None
