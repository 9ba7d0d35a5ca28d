"""Every criterion against HIES: which pairs are compared, the differences by hand, and what cannot be said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import HIES, TUNED, right_in

from analysis import load
from analysis.errors import Unavailable
from analysis.tables.differences import against_table

NORM = {**TUNED, "importance": "output_norm"}
HIES_NORM = HIES.replace(")", ", of the output norm)")


def frame(folder: Path) -> pd.DataFrame:
    """Shares of right answers at 0, 10, 30 and 50 %, on two tasks; the output norm has one task alone."""
    for task, shift in (("cola", 0.0), ("sst2", 0.1)):
        right_in(folder, "hies", 0.8 + shift, 0.8 + shift, 0.7 + shift, 0.6 + shift, task=task, **TUNED)
        right_in(folder, "his", 0.8 + shift, 0.8 + shift, 0.5 + shift, 0.3 + shift, task=task)
        right_in(folder, "hies", 0.8 + shift, 0.8 + shift, 0.7 + shift, 0.5 + shift, task=task, **NORM)
    right_in(folder, "output_norm", 0.8, 0.8, 0.4, 0.3, task="cola")
    return load(folder)


def cell(data: pd.DataFrame, curve: str, reference: str, ratio: float, measure: str = "quality") -> pd.Series:
    found = data.query("criterion == @curve and against == @reference and ratio == @ratio and measure == @measure")
    assert len(found) == 1
    return found.iloc[0]


def test_each_curve_stands_against_hies_and_an_importance_against_itself_without_entropy(tmp_path: Path) -> None:
    data = against_table(frame(tmp_path), draws=50).data
    pairs = set(zip(data["criterion"], data["against"], strict=True))
    assert pairs == {("HIS", HIES), (HIES_NORM, HIES), ("Output norm", HIES), (HIES_NORM, "Output norm")}
    assert set(data["measure"]) == {"quality", "stability"} and sorted(set(data["ratio"])) == [0.1, 0.3, 0.5]


def test_the_difference_is_the_mean_over_the_tasks_that_both_have(tmp_path: Path) -> None:
    data = against_table(frame(tmp_path), draws=50).data
    his = cell(data, "HIS", HIES, 0.5)
    assert his["mean"] == pytest.approx(-30) and his["tasks"] == 2 and his["seeds"] == 5
    assert his["low"] < -30 < his["high"] < 0 and his["verdict"] == "behind on these tasks"
    norm = cell(data, HIES_NORM, "Output norm", 0.3)
    assert norm["mean"] == pytest.approx(30) and norm["tasks"] == 1 and norm["verdict"] == "ahead"
    same = cell(data, "HIS", HIES, 0.1)
    assert same["mean"] == pytest.approx(0) and same["verdict"] == "the same"


def test_what_excludes_zero_is_bold_and_a_single_seed_has_no_interval(tmp_path: Path) -> None:
    shown = against_table(frame(tmp_path), draws=50).shown
    line = shown[(shown["criterion"] == "HIS") & (shown["against"] == HIES)].iloc[0]
    assert line["quality, 50 %"].startswith("**-30.00 [") and not line["quality, 10 %"].startswith("**")
    other = tmp_path / "single"
    right_in(other, "hies", 0.8, 0.7, seeds=1, **TUNED)
    right_in(other, "his", 0.8, 0.6, seeds=1)
    table = against_table(load(other), draws=50)
    assert table.shown["quality, 10 %"].tolist() == ["-10.00"] and np.isnan(table.data["low"]).all()


def test_without_hies_there_is_nothing_to_stand_against(tmp_path: Path) -> None:
    rows = frame(tmp_path)
    with pytest.raises(Unavailable, match="rows of hies"):
        against_table(rows[rows["criterion"] != "hies"])
    with pytest.raises(Unavailable, match="another criterion"):
        against_table(rows[rows["curve"] == HIES])
