"""The score file beside the rows: what every head got, by site."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import Unavailable


@dataclass(frozen=True)
class Scores:
    """Flat arrays over all heads, and how they divide into sites."""

    sites: list[str]  # names of the attention modules, in order of depth
    heads: list[int]  # number of heads of each site
    values: dict[str, np.ndarray]  # scores (higher = keep) and, where collected, his and ae: [sum of heads]

    def rectangle(self, name: str) -> np.ndarray:
        """`values[name]` as [sites, most heads]; NaN where a site has fewer heads."""
        return self._fill(self.values[name])

    def removed(self, mask: Mapping[str, list[int]]) -> np.ndarray:
        """The removed heads as a boolean [sites, most heads]."""
        rectangle = np.zeros((len(self.sites), max(self.heads)), dtype=bool)
        for site, heads in mask.items():
            rectangle[self.sites.index(site), heads] = True
        return rectangle

    def _fill(self, flat: np.ndarray) -> np.ndarray:
        rectangle = np.full((len(self.sites), max(self.heads)), np.nan)
        rectangle[np.arange(max(self.heads)) < np.array(self.heads)[:, None]] = flat
        return rectangle


def load_scores(row: Mapping[str, Any]) -> Scores:
    """The scores of the job that a row belongs to (any row of `load`).

    Raises:
        Unavailable: the score file is not there, or cannot be read.
    """
    path = Path(row["path"]).with_suffix(".npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in ("scores", "his", "ae") if name in arrays}
            scores = Scores([str(site) for site in arrays["sites"]], [int(n) for n in arrays["heads"]], values)
    except FileNotFoundError:
        raise Unavailable(f"the score file {path} is missing") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise Unavailable(f"the score file {path} cannot be read") from None
    if "scores" not in values or any(len(flat) != sum(scores.heads) for flat in values.values()):
        raise Unavailable(f"the score file {path} does not hold one score for each head")
    return scores
