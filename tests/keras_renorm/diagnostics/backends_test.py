"""The gauges under Keras's other backends, each in a process of its own."""

import importlib.util

import pytest

# PyTorch is not among the packages that the tests install; where it is there, it is tested.
BACKENDS = ["jax"] + ["torch"] * (importlib.util.find_spec("torch") is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gauges(run_checks, backend):
    run_checks("backend_checks.py", KERAS_BACKEND=backend)


def test_gauges_on_a_model_of_two_replicas(run_checks):
    run_checks("replica_checks.py")
