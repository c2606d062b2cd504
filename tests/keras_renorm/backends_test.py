"""Keras's backends, each in one process for all checks that can share its environment."""

import importlib.util

import pytest

# The tests do not install PyTorch, but test it where it is there.
BACKENDS = ["tensorflow", "jax"] + ["torch"] * (importlib.util.find_spec("torch") is not None)
EVERYWHERE = ["callbacks/counting", "layers/averaging", "layers/backend", "ops/maths/sums"]
# The other tests run under TensorFlow.
ELSEWHERE = ["convert/backend", "diagnostics/backend", "statistics/backend"]
SLOW = {
    "tensorflow": ["layers/float64"],
    "jax": ["layers/domain_backend"],
    "torch": ["layers/domain_backend", "layers/float64"],
}


def files(names):
    return [f"{name}_checks.py" for name in names]


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(run_checks, backend):
    names = EVERYWHERE + ELSEWHERE * (backend != "tensorflow")
    run_checks(*files(names), KERAS_BACKEND=backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_more(run_checks, backend):
    run_checks(*files(SLOW[backend]), KERAS_BACKEND=backend)


def test_float64_under_jax(run_checks):
    run_checks("layers/float64_checks.py", KERAS_BACKEND="jax", JAX_ENABLE_X64="1")
