"""The layers on Keras's other backends, each in a process of its own."""

import importlib.util

import pytest

# PyTorch is not among the packages that the tests install; where it is there, it is tested.
BACKENDS = ["tensorflow", "jax"] + ["torch"] * (importlib.util.find_spec("torch") is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(run_checks, backend):
    run_checks("backend_checks.py", KERAS_BACKEND=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_averages(run_checks, backend):
    run_checks("averaging_checks.py", KERAS_BACKEND=backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "tensorflow"])
def test_domains(run_checks, backend):
    run_checks("domain_backend_checks.py", KERAS_BACKEND=backend)


@pytest.mark.parametrize("lowering", ["native", "composite"])
def test_float64_under_jax(run_checks, lowering):
    environment = {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1", "KERAS_RENORM_LOWERING": lowering}
    run_checks("float64_checks.py", **environment)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "jax"])
def test_float64(run_checks, backend):
    run_checks("float64_checks.py", KERAS_BACKEND=backend)
