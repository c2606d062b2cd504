"""The callbacks on Keras's backends, each in a process of its own."""

import importlib.util

import pytest

# PyTorch is not among the packages that the tests install; where it is there, it is tested.
BACKENDS = ["tensorflow", "jax"] + ["torch"] * (importlib.util.find_spec("torch") is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_counting(run_checks, backend):
    run_checks("counting_checks.py", KERAS_BACKEND=backend)
