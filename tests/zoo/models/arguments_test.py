import numpy as np
import pytest

from zoo.models.arguments import choice, fraction, positive_integer, positive_integers


def test_numpy_integers_and_lists_are_welcome():
    assert positive_integer("units", np.int64(3)) == 3
    numbers = positive_integers("shape", [np.int32(8), 4], example="(8, 4)")
    assert numbers == (8, 4)
    assert [type(number) for number in numbers] == [int, int]
    assert positive_integers("units", (), example="(8, 4)") == ()


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-3, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_what_is_no_positive_integer_is_named(value, error):
    with pytest.raises(
        error, match=rf"`units` must be an integer of 1 or more, received {value}\."
    ):
        positive_integer("units", value)
    message = rf"`shape` must be integers of 1 or more, such as \(8, 4\), received \(8, {value}\)\."
    with pytest.raises(error, match=message):
        positive_integers("shape", (8, value), example="(8, 4)")


@pytest.mark.parametrize("values", [8, "84", None])
def test_what_is_no_sequence_is_named(values):
    with pytest.raises(TypeError, match=rf"`shape` must be .*, received {values!r}\."):
        positive_integers("shape", values, example="(8, 4)")


def test_unknown_sizes_are_none_where_they_are_allowed():
    assert positive_integers("shape", (None, 8), example="(8, 8)", unknown=True) == (None, 8)
    with pytest.raises(TypeError, match=r"received \(None, 8\)\."):
        positive_integers("shape", (None, 8), example="(8, 8)")


def test_a_choice_is_one_of_its_words():
    assert choice("pooling", None, (None, "avg", "max")) is None
    assert choice("pooling", "max", (None, "avg", "max")) == "max"
    message = (
        r"^`pooling` must be one of None, 'avg', 'max', received 'mav'\. Did you mean 'max'\?$"
    )
    with pytest.raises(ValueError, match=message):
        choice("pooling", "mav", (None, "avg", "max"))
    with pytest.raises(ValueError, match=r"must be one of None, 'avg', 'max', received 3\.$"):
        choice("pooling", 3, (None, "avg", "max"))
    with pytest.raises(ValueError, match=r"^`top` must be one of True, False, received 'no'\.$"):
        choice("top", "no", (True, False))


def test_a_fraction_is_below_one():
    rates = [fraction("rate", value) for value in (0, np.float32(0.5), 0.999)]
    assert rates == [0.0, 0.5, 0.999]
    assert [type(rate) for rate in rates] == [float] * 3


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1, ValueError),
        (-0.1, ValueError),
        (float("nan"), ValueError),
        (True, TypeError),
        ("0.5", TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_fraction_is_named(value, error):
    message = rf"`rate` must be a number of at least 0 and below 1, received {value!r}\."
    with pytest.raises(error, match=message):
        fraction("rate", value)
