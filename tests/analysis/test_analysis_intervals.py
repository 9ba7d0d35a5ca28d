"""Verdicts: corrected for how many there are, and with the tasks that they reach."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.intervals import corrected
from analysis.stats.significance import Sample, mean_over_tasks


def lines(p: float, verdict: str, within: float, count: int = 3) -> pd.DataFrame:
    return pd.DataFrame([{"p": p, "verdict": verdict, "within": within, "margin": 1.0, "scope": "!"}] * count)


def test_a_verdict_that_does_not_survive_the_correction_is_withdrawn() -> None:
    kept, gone = lines(0.01, "ahead", 2), lines(0.04, "ahead", 2)
    families = pd.Series(0, index=range(3))
    assert corrected(kept, families)["verdict"].tolist() == ["ahead!"] * 3
    assert corrected(gone, families)["verdict"].tolist() == ["undecided"] * 3
    assert corrected(gone, pd.Series([0, 1, 2]))["verdict"].tolist() == ["ahead!"] * 3  # each alone in its family
    assert corrected(lines(0.04, "behind", 0.9), families)["verdict"].tolist() == ["equal within 1"] * 3
    assert corrected(gone, families)["p_holm"].tolist() == pytest.approx([0.12] * 3)


def sample_of(by_task: list[float], variance: float) -> Sample:
    seeds = np.array([0.5, 1.5, 1.0, 0.75, 1.25])
    return Sample(np.array(by_task), seeds, variance, 4.0, 5, 5, 0, 10, 0, 1, 1.0)


def test_tasks_that_differ_widen_the_interval_over_tasks_alone() -> None:
    tasks = [9.0, 0.1, 0.2, -0.1, 0.0]
    sample = mean_over_tasks([sample_of([task], 0.01) for task in tasks])
    over, expected = sample.over_tasks(), stats.ttest_1samp(tasks, 0)
    assert sample.estimate()["verdict"] == "ahead" and over["low"] < 0 < over["high"]
    assert over["p"] == pytest.approx(expected.pvalue)
    assert (over["low"], over["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert np.isnan(sample_of(tasks[:4], 0.01).over_tasks()["low"])  # four tasks are not enough
    together = mean_over_tasks([sample_of([task], 0.25) for task in tasks])
    assert together.variance == pytest.approx(0.25 / 5) and together.df == pytest.approx(4 * 5)
    assert together.by_task.tolist() == tasks


def test_tasks_that_differ_are_equal_nowhere_though_their_mean_is() -> None:
    apart, alike = [3.0, -3.0, 2.0, -2.0, 0.1], [0.1, -0.1, 0.2, -0.2, 0.1]
    verdicts = [mean_over_tasks([sample_of([task], 0.01) for task in tasks]).estimate()["verdict"]
                for tasks in (apart, alike, apart[:4])]  # fmt: skip
    assert verdicts == ["undecided", "equal within 1", "equal within 1"]  # of four nothing is said of other tasks


@pytest.mark.parametrize(
    ("tasks", "scope"),
    [([3.0, 3.2, 2.8, 3.1, 2.9], ""), ([9.0, 0.9, 0.8, 0.9, 1.0], " on these tasks"),
     ([9.0, 0.1, 0.2, -0.1, 0.0], " on these tasks: one task"), ([9.0, 0.1, 0.0], " on these tasks: one task"),
     ([9.0, 0.1], " on these tasks"), ([9.0], "")],
)  # fmt: skip
def test_a_verdict_says_which_tasks_it_reaches(tasks: list[float], scope: str) -> None:
    mean = mean_over_tasks([sample_of([task], 0.25) for task in tasks])
    assert mean.scope == mean.estimate()["scope"] == scope
    assert mean_over_tasks([sample_of([-task], 0.25) for task in tasks]).scope == scope
    if len(tasks) > 2:
        rest = mean.rest()
        assert mean.extreme == np.argmax(np.abs(np.array(tasks) - np.mean(tasks)))
        assert rest.tasks == len(tasks) - 1 and rest.variance == pytest.approx(0.25 / rest.tasks)
