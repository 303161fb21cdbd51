"""Forty files that a stranger might hand over: none runs, none is taken, each has its sentence."""

import resource

import pytest

from benchmarks.hostile import handed_over
from benchmarks.hostile_files import MAKERS

GIGABYTES = 2


@pytest.fixture(scope="module")
def outcomes():
    return list(handed_over(40, seed=1))


def test_every_kind_is_handed_over(outcomes):
    assert {one.kind for one in outcomes} == set(MAKERS)


def test_nothing_runs(outcomes):
    assert not [one for one in outcomes if one.executed]


def test_each_is_refused_in_one_sentence(outcomes):
    for one in outcomes:
        assert one.said or one.kind == "bits flipped"  # which may leave another weight
        if one.said:
            first, *lines = one.said.split("\n")
            assert first.isprintable()
            assert len(first) < 700
            assert all(line.startswith("    ") for line in lines)


def test_none_takes_much_memory():
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < GIGABYTES * 2**20
