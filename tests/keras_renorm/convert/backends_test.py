"""Conversion on Keras's other backends, each in a process of its own."""

import pytest


@pytest.mark.parametrize("backend", ["jax"])
def test_backend(run_checks, backend):
    run_checks("backend_checks.py", KERAS_BACKEND=backend)
