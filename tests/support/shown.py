"""What stands in figures and tables, for the tests that read it off."""

import numpy as np
import pandas as pd


def lines(axes) -> dict[str, np.ndarray]:
    """Label -> points of each line that a legend would name."""
    return {one.get_label(): one.get_xydata() for one in axes.get_lines() if not one.get_label().startswith("_")}


def caption_of(axes) -> str:
    return axes.get_figure(root=True).get_supxlabel().replace("\n", " ")


def line(shown: pd.DataFrame, **cells: str) -> list[str] | None:
    """The texts of the only line with these cells, without the cells themselves; None if there is no such line."""
    for column, text in cells.items():
        shown = shown[shown[column] == text]
    assert len(shown) < 2
    return shown.drop(columns=list(cells)).iloc[0].tolist() if len(shown) else None
