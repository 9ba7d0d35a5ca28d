"""The share of heads at which quality falls under 80 % (appendix E.1)."""

from pathlib import Path

import numpy as np
import pytest
from analysis_runs import write_run
from shown import line

from analysis import load
from analysis.errors import Unavailable
from analysis.tables.threshold import crossing, threshold_table

RATIOS = (0.0, 0.1, 0.3, 0.5)


def test_a_crossing_is_where_the_line_between_two_ratios_meets_it() -> None:
    ratios = np.array(RATIOS)
    fine = np.linspace(0, 0.5, 500_001)
    for quality in ([95, 90, 70, 60], [81, 79, 90, 90], [90, 80, 75, 85]):
        first = fine[np.interp(fine, ratios, quality) < 80][0]
        assert crossing(ratios, np.array(quality, dtype=float)) == pytest.approx(first, abs=2e-6)
    assert np.isnan(crossing(ratios, np.array([95.0, 90, 85, 80])))
    assert crossing(ratios, np.array([95.0, 90, np.nan, 70])) == 0.3  # undefined is fallen
    assert crossing(ratios, np.array([79.0, 90, 90, 90])) == 0.0


def test_the_table_has_the_mean_over_seeds_and_says_who_never_falls(tmp_path: Path) -> None:
    for seed, end in enumerate((70.0, 60.0, 75.0)):
        write_run(tmp_path / "exp", "his", seed, (90, 85, 80, end), ratios=RATIOS)
        write_run(tmp_path / "exp", "ae", seed, (90, 85, 82, 81 if seed else 70), ratios=RATIOS)
        write_run(tmp_path / "exp", "his", seed, (79, 60, 60, 60), ratios=RATIOS, task="weak")
    table = threshold_table(load(tmp_path))
    assert line(table.shown, task="toy", criterion="HIS") == ["30.0 % [30.0, 30.0]", "3"]
    assert line(table.shown, task="toy", criterion="AE") == ["not up to 50 % for 2 of 3 draws", "3"]
    assert set(table.shown["task"]) == {"toy"} and "range of 3 draws" in table.caption
    with pytest.raises(Unavailable, match="no task has 80 % unpruned"):
        threshold_table(load(tmp_path).query("task == 'weak'"))
