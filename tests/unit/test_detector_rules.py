"""Outliers among classes: golden values of the fact sheet, and how often chance flags."""

import numpy as np
import pytest

from backdoor_lab.detectors._rules import (
    CRITICAL,
    INFINITE,
    critical,
    mad_indices,
    outlier_rules,
    tail_indices,
)

GOLDEN = {
    (100, 98, 102, 101, 99, 103, 97, 100, 101, 20): 35.973,
    (90, 95, 100, 105, 110, 115, 120, 125, 130, 60): 2.5631,
    (50, 60, 70, 80, 90, 100, 110, 120, 130, 40): 1.2141,
}
NAMES = tuple("abcdefghij")


@pytest.mark.parametrize("values", GOLDEN)
def test_the_index_of_the_minimum_in_numpys_convention(values):
    assert mad_indices(values)[-1] == pytest.approx(GOLDEN[values], rel=1e-4)


def test_where_most_are_equal_the_others_are_infinitely_far():
    assert mad_indices([1, 1, 1, 1, 2]).tolist() == [0, 0, 0, 0, np.inf]
    usual, calibrated, _ = outlier_rules([1.0] * 9 + [0.5], NAMES, "left")
    assert usual.value == calibrated.value == INFINITE
    assert calibrated.classes == ("j",)


def test_only_one_tail_counts():
    values = [100, 98, 102, 101, 99, 103, 97, 100, 101, 20]
    assert tail_indices(values, "right").argmax() == 5
    assert not outlier_rules(values, NAMES, "right")[1].flagged
    assert outlier_rules(values, NAMES, "left")[1].classes == ("j",)


def test_the_usual_rule_flags_what_the_calibrated_one_does_not():
    values = list(next(one for one, index in GOLDEN.items() if index == 2.5631))
    usual, calibrated, reason = outlier_rules(values, NAMES, "left")
    assert usual.flagged
    assert not calibrated.flagged
    assert calibrated.threshold == 3.82
    assert reason is None
    assert outlier_rules(values, NAMES, "left", 2.5)[1].flagged  # a threshold of one's own


def test_few_classes_have_no_calibrated_rule():
    _, calibrated, reason = outlier_rules([5.0, 5.1, 4.9, 0.1], NAMES[:4], "left")
    assert calibrated is None
    assert "4 classes are too few" in reason


def test_the_thresholds_are_five_percent_of_chance():
    draw = np.random.default_rng(0)
    for classes, limit in CRITICAL.items():
        values = draw.standard_normal((20_000, classes))
        distances = values - np.median(values, 1, keepdims=True)
        scale = 1.4826 * np.median(np.abs(distances), 1)
        share = np.mean((-distances).max(1) / scale > limit)
        assert share == pytest.approx(0.05, abs=0.007), classes
    assert CRITICAL[20] > critical(30) > CRITICAL[43]
