"""The gauges under Keras's other backends, each in a process of its own."""

import pytest


@pytest.mark.parametrize("backend", ["jax"])
def test_gauges(run_checks, backend):
    run_checks("backend_checks.py", KERAS_BACKEND=backend)


def test_gauges_on_a_model_of_two_replicas(run_checks):
    run_checks("replica_checks.py")
