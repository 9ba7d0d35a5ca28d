"""Vision transformers: CIFAR-100, Food-101, Fashion-MNIST and other sets of images (figure 11 of the paper)."""

import pandas as pd
from matplotlib.axes import Axes

from analysis import labels
from analysis.figures.figure4 import draw_kind
from analysis.registry import figure


@figure(
    "figure11",
    about="Quality above stability against the ratio for sets of images, a column for each and one for their mean.",
    needs="rows of CIFAR-10, CIFAR-100, Food-101, Fashion-MNIST or ImageNet-1k at a pruned ratio",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """As figure 4."""
    return draw_kind(rows, labels.VISION)
