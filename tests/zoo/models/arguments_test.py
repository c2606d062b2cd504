import numpy as np
import pytest

from zoo.models.arguments import positive_integer, positive_integers


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
