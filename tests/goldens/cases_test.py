"""Every case under TensorFlow, and in processes of their own what takes one."""

import importlib.util
import os
import pathlib
import shutil

import pytest

import keras_renorm
from goldens import matrix, running, write

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = ["jax"] + ["torch"] * (importlib.util.find_spec("torch") is not None)


@pytest.mark.parametrize(("name", "mode", "dtype"), matrix.every())
def test_case(name, mode, dtype):
    running.assert_as_written(name, running.run(name, mode, dtype), running.TOLERANCES[dtype])


@pytest.mark.parametrize("lowering", ["native", "fused", "composite"])
@pytest.mark.parametrize(("name", "mode", "dtype"), matrix.float32())
def test_lowering(name, mode, dtype, lowering, monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    running.assert_as_written(name, running.run(name, mode, dtype), running.TOLERANCES[dtype])


def test_without_the_library(run_checks, tmp_path):
    """A copy of the package in which it is not there."""
    package = tmp_path / "keras_renorm"
    shutil.copytree(ROOT / "keras_renorm", package, ignore=shutil.ignore_patterns("*.so"))
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    run_checks("case_checks.py", GOLDENS_EXPECT=f"{package} fused", **environment)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(run_checks, backend):
    checkpoints = pathlib.Path(__file__).with_name("checkpoints")
    environment = {
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "GOLDENS_EXPECT": f"{ROOT / 'keras_renorm'} {keras_renorm.ops.lowering().name}",
        "GOLDENS_FILES": str(checkpoints),
    }
    files = str(pathlib.Path(__file__).with_name("file_checks.py"))
    run_checks("case_checks.py", files, **environment)


@pytest.mark.parametrize("name", write.CASES)
def test_what_is_written_is_what_the_equations_say(name):
    inputs, outputs = write.read(name)
    fresh = write.CASES[name].outputs(inputs)
    assert fresh.keys() == outputs.keys()
    for key, array in fresh.items():
        running.assert_close(outputs[key], array, 1e-13, key)
