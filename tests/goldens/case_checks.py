"""The cases in a process of its own, as `processes_test.py` sets it up."""

import os
import pathlib

import pytest

import keras_renorm
from goldens import matrix, running

# A process says once that the library is missing.
pytestmark = pytest.mark.filterwarnings("ignore:keras_renorm computes without its native library")
PACKAGE, LOWERING = os.environ["GOLDENS_EXPECT"].split()
# Without the library XLA compiles the plain operations: `cases_test.py` has them.
FUSED = matrix.float32(modes=[mode for mode in running.MODES if mode != "jit"])
CASES = FUSED if LOWERING == "fused" else matrix.every()


def test_the_process_is_as_asked_for():
    assert pathlib.Path(keras_renorm.__file__).parent == pathlib.Path(PACKAGE)
    assert keras_renorm.ops.lowering().name == LOWERING


@pytest.mark.parametrize(("name", "mode", "dtype"), CASES)
def test_case(name, mode, dtype):
    running.assert_as_written(name, running.run(name, mode, dtype), running.TOLERANCES[dtype])
