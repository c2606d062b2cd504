import pytest

from zoo.training import allowed


@pytest.mark.parametrize(
    ("what", "inside", "outside"),
    [
        (allowed.ABOVE_0, [1e-30, 1], [0, -1]),
        (allowed.AT_LEAST_0, [0, 5], [-1e-30]),
        (allowed.AT_LEAST_1, [1, 5], [0.99]),
        (allowed.BELOW_1, [0, 0.99], [1, -0.1]),
        (allowed.TO_1, [0, 1], [1.01, -0.1]),
        (allowed.INSIDE, [0.5], [0, 1]),
        (allowed.SHARES, [0.01, 1], [0, 1.01]),
        (allowed.SIZES, [0, 8192], [-1, 8193]),
        (allowed.CHANNELS, [0, 1, 3], [2, 4]),
        (allowed.SEEDS, [0, 2**31 - 1], [-1, 2**31]),
        (allowed.one_of("a", "b"), ["a", "b"], ["c", "a:b", ""]),
        (allowed.one_of("a", path=True), ["a", "x:y"], ["b"]),
    ],
)
def test_the_question_agrees_with_the_words(what, inside, outside):
    assert all(map(what.holds, inside))
    assert not any(map(what.holds, outside))
