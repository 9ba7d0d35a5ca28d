"""How far two masks, or two rankings, are the same."""

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd

HeadOfSite = tuple[str, int]


def removed_heads(mask: Mapping[str, list[int]]) -> set[HeadOfSite]:
    """Returns the removed heads of a mask."""
    return {(site, head) for site, heads in mask.items() for head in heads}


def jaccard(first: set[HeadOfSite], second: set[HeadOfSite]) -> float:
    """Returns shared heads over heads in either set; two empty sets are the same set: 1."""
    return len(first & second) / len(first | second) if first | second else 1.0


def mean_jaccard(masks: Iterable[Mapping[str, list[int]]]) -> float:
    """Returns the mean overlap of all pairs of masks; NaN for fewer than two."""
    pairs = [jaccard(one, other) for one, other in combinations(map(removed_heads, masks), 2)]
    return float(np.mean(pairs)) if pairs else np.nan


def correlation_of_ranks(first: pd.Series, second: pd.Series) -> float:
    """Returns Spearman's correlation of what was ranked (`Series.rank`); NaN where one of the two is constant."""
    constant = first.nunique() < 2 or second.nunique() < 2
    return np.nan if constant else float(np.corrcoef(first, second)[0, 1])
