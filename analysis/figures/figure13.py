"""The norm of a head's outputs alone against norm and entropy together (figure 13 of the paper, its appendix D.9)."""

import pandas as pd
from matplotlib.axes import Axes

from analysis import choice
from analysis.errors import Unavailable
from analysis.figures.tasks import draw_tasks
from analysis.registry import figure

NORM = "output_norm"


@figure(
    "figure13",
    about="Quality above stability against the ratio: the norm of the outputs alone, and with AE, a column a task.",
    needs="rows of output_norm and of hies with importance output_norm, at a pruned ratio",
    per=("experiment", "model"),
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """Two lines a panel; of several alphas the preferred one."""
    alone, together = both(rows)
    if alone is None or together is None or not (rows["ratio"] > 0).any():
        raise Unavailable(f"it takes rows of {NORM}, and of hies with importance {NORM}, at a pruned ratio")
    rows = rows[rows["curve"].isin([alone, together])]
    return draw_tasks(
        rows, f"{rows['model'].iloc[0]}: norm of the outputs alone and with AE", note=f" With AE: {together}."
    )


def both(rows: pd.DataFrame) -> tuple[str | None, str | None]:
    """The curves of the norm alone, and of HIES with the norm in the place of HIS; None for one that is not there."""
    mixed = rows[rows["importance"] == NORM] if "importance" in rows else rows[:0]
    return choice.plainest(rows, NORM), choice.plainest(mixed, "hies")
