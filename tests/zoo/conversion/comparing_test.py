import keras
import ml_dtypes
import numpy as np
import pytest

from zoo.conversion import comparing
from zoo.errors import UserError


def test_the_largest_difference_is_that_of_the_outputs():
    x = np.ones(3, np.float32)
    assert comparing.largest_difference([x, 1000 * x], [x, 1000 * x - 0.5]) == 0.5


@pytest.mark.parametrize("wrong", [1.5, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_outputs_that_do_not_agree_are_refused(wrong, place):
    found = [np.ones(3), np.ones(3)]
    found[place] = np.array([1.0, wrong, 1.0])
    message = (
        r"^The result does not do what the model does: an output differs by (0\.5|nan|inf), more"
    )
    with pytest.raises(UserError, match=message + r" than 0\.001\. Nothing was written\.$"):
        comparing.largest_difference([np.ones(3), np.ones(3)], found)


@pytest.mark.parametrize("found", [1.0, np.inf])
def test_infinite_outputs_agree_with_nothing(found):
    with pytest.raises(UserError, match="does not do what the model does"):
        comparing.largest_difference([np.array([np.inf])], [np.array([found])])


def off_by(difference):
    """A source, and a model whose second output differs from its."""
    inputs = keras.Input((3,))
    ours = keras.Model(inputs, [inputs, inputs])
    return lambda x, training: [x, x + np.float32(difference)], ours


def test_a_result_is_written_in_one_piece_if_it_agrees(tmp_path):
    output, said = tmp_path / "x", []

    def fail(path):
        path.write_text("half")
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        comparing.write(*off_by(0), fail, output, said.append)
    with pytest.raises(
        UserError, match=r"differs by 3, more than 0\.00\d+\. Nothing was written\.$"
    ):
        comparing.write(*off_by(3), lambda path: path.write_text("all"), output, said.append)
    assert (list(tmp_path.iterdir()), said) == ([], [])
    comparing.write(*off_by(0), lambda path: path.write_text("all"), output, said.append)
    assert (output.read_text(), said) == (
        "all",
        [f"{output}: largest difference of the outputs 0"],
    )


def test_a_file_that_comes_meanwhile_is_kept(tmp_path):
    output = tmp_path / "x"

    def save(path):
        path.write_text("ours")
        output.write_text("theirs")

    with pytest.raises(UserError, match=f"^{output} cannot be written: something else wrote it me"):
        comparing.write(*off_by(0), save, output, print)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(("dtype", "agrees"), [("float32", False), ("bfloat16", True)])
def test_half_precision_may_round(tmp_path, dtype, agrees):
    inputs = keras.Input((3,))
    ours = keras.Model(inputs, keras.layers.Activation("linear", dtype=dtype)(inputs))
    rounded = lambda x, training: x.astype(ml_dtypes.bfloat16).astype(np.float32) * 1.01  # noqa: E731
    arguments = rounded, ours, lambda path: path.write_text("all"), tmp_path / "x", print
    if agrees:
        comparing.write(*arguments)
    else:
        with pytest.raises(UserError, match="does not do what the model does"):
            comparing.write(*arguments)
