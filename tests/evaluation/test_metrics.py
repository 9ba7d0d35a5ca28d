"""The paper's mapping of metrics to quality, on predictions made by hand."""

import json
import warnings

import numpy as np
import pytest

from hies.evaluation.metrics import quality, stability

CLASSES = np.array([0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0])


def test_a_constant_prediction_is_50_for_cola():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quality("matthews", CLASSES, np.ones_like(CLASSES)) == (0.0, 50.0)


def test_a_matthews_correlation_is_mapped_to_half_of_one_plus_itself():
    predictions = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0])
    tp, tn, fp, fn = 6, 3, 1, 1
    mcc = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert quality("matthews", CLASSES, predictions) == pytest.approx((mcc, 50 * (1 + mcc)))
    assert pytest.approx(76.7) == 50 * (1 + 0.534)  # how the paper prints its unpruned CoLA


def test_constant_scores_of_stsb_are_null_in_json_not_nan_and_not_zero():
    labels = np.array([0.0, 2.5, 5.0, 3.3, 1.2], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, mapped = quality("pearson", labels, np.full(5, 2.34567, dtype=np.float32))
    assert json.dumps([value, mapped], allow_nan=False) == "[null, null]"
    assert quality("pearson", labels[:1], labels[:1]) == (None, None)


def test_a_pearson_correlation_is_mapped_like_matthews():
    labels = np.array([0.0, 2.5, 5.0, 3.3, 1.2], dtype=np.float32)
    scores = np.array([0.4, 2.0, 4.4, 3.9, 0.7], dtype=np.float32)
    r = np.corrcoef(labels, scores)[0, 1]
    assert quality("pearson", labels, scores) == pytest.approx((r, 50 * (1 + r)), rel=1e-5)


def test_f1_is_of_the_positive_class_and_zero_where_nothing_is_positive():
    predictions = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0])
    f1 = 2 * 6 / (2 * 6 + 1 + 1)
    assert quality("f1", CLASSES, predictions) == pytest.approx((f1, 100 * f1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quality("f1", CLASSES, np.zeros_like(CLASSES)) == (0.0, 0.0)


def test_accuracy_is_the_share_of_right_answers():
    assert quality("accuracy", CLASSES, np.ones_like(CLASSES)) == pytest.approx((7 / 11, 700 / 11))


def test_stability_of_classes_is_the_share_of_equal_answers():
    other = CLASSES.copy()
    other[[0, 4, 9]] = 1 - other[[0, 4, 9]]
    assert stability(other, CLASSES) == pytest.approx(800 / 11)


def test_stability_of_scores_rounds_to_the_scale_from_0_to_5():
    unpruned = np.array([0.2, 2.6, 4.9, 5.3, -0.4, 1.4], dtype=np.float32)
    pruned = np.array([-0.6, 3.4, 5.7, 6.9, 0.4, 1.6], dtype=np.float32)
    # rounded and kept on the scale: 0 0, 3 3, 5 5, 5 5, 0 0, 1 2
    assert stability(pruned, unpruned) == pytest.approx(500 / 6)
