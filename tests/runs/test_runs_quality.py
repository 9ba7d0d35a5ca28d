import numpy as np
import pytest

from hies.runs.quality import PERCENT, agreement, stability, weighted_area


@pytest.mark.parametrize(
    ("metric", "value", "percent"),
    [("accuracy", 0.25, 25), ("f1", 1, 100), ("matthews", -1, 0), ("pearson", 0.5, 75), ("exact_match", 0, 0)],
)
def test_metrics_are_mapped_to_percent(metric, value, percent):
    assert PERCENT[metric](value) == percent
    np.testing.assert_array_equal(PERCENT[metric](np.array([value, value])), [percent, percent])


def test_classes_agree_where_they_are_equal_and_scores_where_they_round_to_the_same_integer():
    assert stability(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 3])) == 75
    scores, unpruned = np.array([[0.4, 5.9, 2.6]]), np.array([[-3.0, 4.6, 2.4]])
    np.testing.assert_array_equal(agreement(scores, unpruned), [[True, True, False]])


def test_the_weighted_area_weighs_each_ratio_with_itself_and_takes_what_is_undefined_as_0():
    areas = weighted_area(np.array([[90.0, 60.0], [90.0, np.nan]]), np.array([0.1, 0.5]))
    np.testing.assert_allclose(areas, [(0.1 * 90 + 0.5 * 60) / 0.6, 0.1 * 90 / 0.6])
