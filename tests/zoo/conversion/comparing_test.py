import keras
import numpy as np
import pytest

from zoo.conversion import comparing
from zoo.errors import UserError


def test_the_largest_difference_is_that_of_the_outputs():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [inputs, inputs])
    found = comparing.largest_difference(
        lambda x: [x, x], lambda x: [x + 0.25, x - np.float32(0.5)], model
    )
    assert found == pytest.approx(0.5)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    output, said = tmp_path / "x", []

    def fail(path):
        path.write_text("half")
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        comparing.write(fail, output, 0.0, said.append)
    assert (list(tmp_path.iterdir()), said) == ([], [])
    comparing.write(lambda path: path.write_text("all"), output, 0.125, said.append)
    assert (output.read_text(), said) == (
        "all",
        [f"{output}: largest difference of the outputs 0.125"],
    )
