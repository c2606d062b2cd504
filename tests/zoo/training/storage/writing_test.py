import errno
import os
from pathlib import Path

import pytest
import tensorflow as tf

from zoo.errors import UserError
from zoo.training.storage.writing import writing

TENSORFLOW = (
    "{{function_node __wrapped__SaveV2}} runs/a; b/.tmp-x/part-00000; No space left on device "
    "[Op:SaveV2]"
)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), ".tmp-x"), "No space left on device"),
        (OSError("Unable to write (file write failed)\ntime = 1"), "Unable to write (file write "),
        (tf.errors.ResourceExhaustedError(None, None, TENSORFLOW), "No space left on device"),
    ],
)
def test_whoever_writes_names_the_file_of_the_user(error, why):
    with pytest.raises(UserError) as caught, writing(Path("runs/x")):
        raise error
    assert str(caught.value).startswith(f"runs/x cannot be written: {why}")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_left_alone():
    with pytest.raises(UserError, match=r"^as it is$"), writing(Path("x")):
        raise UserError("as it is")
    with pytest.raises(tf.errors.InvalidArgumentError), writing(Path("x")):
        raise tf.errors.InvalidArgumentError(None, None, "of a model that runs")
