"""Language models: GSM8K and MMLU (figure 10 of the paper)."""

import pandas as pd
from matplotlib.axes import Axes

from analysis import labels
from analysis.figures.figure4 import draw_kind
from analysis.registry import figure


@figure(
    "figure10",
    about="Quality above stability against the ratio for GSM8K and MMLU, and their mean.",
    needs="rows of GSM8K or MMLU at a pruned ratio",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """As figure 4."""
    return draw_kind(rows, labels.REASONING)
