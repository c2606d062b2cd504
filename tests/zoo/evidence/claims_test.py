import math

import pytest

from zoo.evidence.claims import Claim, Term, interval

RESULTS = {
    "a": {"accuracy": [0.80, 0.82, 0.84], "gap": [1.0, 1.2, 1.4]},
    "b": {"accuracy": [0.70, 0.73, 0.72], "gap": [0.0, 0.5, 1.0]},
}


def claim(**changes):
    values = {"text": "", "paper": "", "left": Term("a"), "right": Term("b")}
    return Claim(**values | changes)


@pytest.mark.parametrize(
    ("count", "t"),
    [
        (2, 12.706),
        (3, 4.303),
        (5, 2.776),
        (10, 2.262),
        (11, 2.228),
        (21, 2.086),
        (31, 2.042),
        (61, 2.000),
        (1001, 1.962),
    ],
)
def test_intervals_are_students(count, t):
    """For -1 and 1 in turns the deviation is known: t * s / sqrt(n), with t from the tables."""
    values = [(-1.0) ** i for i in range(count)]
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    found = interval(values)
    assert found[0] == pytest.approx(mean)
    assert found[1] == pytest.approx(t * deviation / math.sqrt(count), rel=5e-4)


def test_differences_are_taken_seed_by_seed():
    found = claim().find(RESULTS)
    differences = (0.10, 0.09, 0.12)
    mean = sum(differences) / 3
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    assert found.difference == pytest.approx(mean)
    assert found.error == pytest.approx(4.303 * deviation / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "held"),
        ({"left": Term("b"), "right": Term("a")}, "not held"),
        ({"by": 0.05}, "held"),
        ({"by": 0.2}, "not held"),
        ({"by": 0.1}, "not decided"),
        ({"within": 0.2}, "held"),
        ({"within": 0.01}, "not held"),
        ({"within": 0.1}, "not decided"),
        ({"right": 0.5}, "held"),
        ({"left": Term("a", "gap"), "right": Term("b", "gap")}, "not decided"),
    ],
)
def test_verdicts_follow_from_the_interval(changes, verdict):
    assert claim(**changes).find(RESULTS).verdict == verdict


def test_one_seed_decides_nothing():
    results = {arm: {"accuracy": [value]} for arm, value in (("a", 1.0), ("b", 0.0))}
    assert claim().find(results).verdict == "not decided"
    assert claim(within=2.0).find(results).verdict == "not decided"


def test_a_number_that_a_run_lacks_decides_nothing():
    results = RESULTS | {"a": {"accuracy": [0.80, None, 0.84]}}
    for changes in ({}, {"right": 0.5}, {"within": 2.0}, {"left": Term("b"), "right": Term("a")}):
        found = claim(**changes).find(results)
        assert math.isnan(found.difference)
        assert found.verdict == "not decided"


def test_seeds_must_be_the_same():
    results = {"a": {"accuracy": [1.0, 1.0]}, "b": {"accuracy": [1.0]}}
    with pytest.raises(ValueError, match="shorter"):
        claim().find(results)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, "accuracy of 'a' is greater than accuracy of 'b'"),
        ({"by": 0.3, "right": 0.5}, "accuracy of 'a' is greater than 0.5 by 0.3"),
        ({"within": 0.01}, "accuracy of 'a' equals accuracy of 'b' within 0.01"),
    ],
)
def test_rules_are_told_in_words(changes, rule):
    assert claim(**changes).rule == rule
