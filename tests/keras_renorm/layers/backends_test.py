"""The layers on Keras's other backends, each in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

CHECKS = pathlib.Path(__file__).with_name("backend_checks.py")
# PyTorch is not among the packages that the tests install; where it is there, it is tested.
BACKENDS = ["tensorflow", "jax"] + ["torch"] * (importlib.util.find_spec("torch") is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(backend):
    root = CHECKS.parents[3]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
