"""The table of detectors: thresholds by rank, areas with intervals, rows."""

import numpy as np
import pytest

from backdoor_lab.records import Evidence, Inspection, Rule
from benchmarks.detectors import Found, Sets, auc, beyond, by_detector, dealt, rows, thresholds
from tests.records import record


def evidence(scalar, foremost="3"):
    rule = Rule("MAD index", scalar, ">", 3.82, scalar > 3.82)
    usual = Rule("MAD index", scalar, ">", 2.0, scalar > 2)
    return Evidence("not flagged", "", None, {}, foremost, scalar, usual, rule, seconds=2.0)


def found(*scalars):
    return [Found(evidence(one), None) for one in scalars]


def test_clean_models_are_judged_by_the_half_that_they_are_not_in():
    sets = Sets({}, found(1.0, 2.0, 9.0, 4.0, 5.0, 6.0))  # 1, 9, 5 and 2, 4, 6
    assert thresholds(sets.clean) == (9, 6)
    assert beyond(sets.clean, sets) == "1 of 6"  # the 9
    assert beyond(found(6.0, 7.0, 9.5), sets) == "1 to 2 of 3"
    assert beyond(found(10.0, 1.0), sets) == "1 of 2"


def test_an_area_and_its_interval():
    assert auc(np.arange(10, 20.0), np.arange(10.0)) == (1, 1, 1)
    area, low, high = auc(np.arange(20.0), np.arange(20.0))
    assert area == pytest.approx(0.5)
    assert low < 0.5 < high


def test_twenty_victims_are_dealt_to_six_attacks():
    assert list(dealt("abcdef", 20).values()) == [4, 4, 3, 3, 3, 3]


def test_a_row_each_attack_and_one_of_clean_models():
    def held(attack, seed, scalar, foremost):
        found = Inspection({"victim": {"mm_bd": evidence(scalar, foremost)}})
        return record(task="inspect", attack=attack, seed=seed, inspection=found)

    records = [
        held("badnets", 0, 9.0, "0"), held("badnets", 1, 1.0, "5"), held("none", 10, 2.5, "1"),
        held("none", 11, 3.0, "1"), held("none", 12, 1.0, "1"),
    ]  # fmt: skip
    first, everything, clean = rows(by_detector(records))
    assert [line[1] for line in (first, everything, clean)] == ["badnets", "all", "clean"]
    assert first[2:5] == ["2", "94 up", "0.58"]
    assert first[6:10] == ["1 of 2", "1 of 2", "1 of 2", "1 of 2"]
    assert clean[6:9] == ["1 of 3", "2 of 3", "0 of 3"]
