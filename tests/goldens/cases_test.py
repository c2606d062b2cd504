"""Every case under TensorFlow; `processes_test.py` has the other backends."""

import matplotlib
import pytest

from goldens import matrix, running, structure_cases, write, zoo_cases

FUNCTIONS = {**structure_cases.CASES, **zoo_cases.CASES}.values()
matplotlib.use("agg")


@pytest.mark.parametrize(("name", "mode", "dtype"), matrix.every())
def test_case(name, mode, dtype):
    running.assert_as_written(name, running.run(name, mode, dtype), running.TOLERANCES[dtype])


COMPOSITE = [
    pytest.param(name, mode, dtype, marks=pytest.mark.slow if mode == "jit" else ())
    for name, mode, dtype in matrix.float32()
]


@pytest.mark.parametrize(("name", "mode", "dtype"), COMPOSITE)
def test_composite(name, mode, dtype, monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", "composite")
    running.assert_as_written(name, running.run(name, mode, dtype), running.TOLERANCES[dtype])


@pytest.mark.parametrize("name", write.CASES)
@pytest.mark.parametrize("lowering", ["native", "fused"])
def test_lowering(name, lowering, monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    running.assert_as_written(name, running.run(name, "eager", "float32"), 2e-6)


@pytest.mark.parametrize("case", dict.fromkeys(FUNCTIONS), ids=lambda case: case.__name__)
def test_structure(case, tmp_path):
    case(tmp_path)


@pytest.mark.parametrize("name", write.CASES)
def test_what_is_written_is_what_the_equations_say(name):
    inputs, outputs = write.read(name)
    fresh = write.CASES[name].outputs(inputs)
    assert fresh.keys() == outputs.keys()
    for key, array in fresh.items():
        running.assert_close(outputs[key], array, 1e-13, key)
