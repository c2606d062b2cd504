"""Derivatives of the library's calls; `backends_test.py` runs this under JAX, in float64."""

import jax
import jax.numpy as jnp
import pytest

from keras_renorm import ops
from keras_renorm.ops.steps import lowerings

pytestmark = pytest.mark.slow

CASES = {
    "a step": {},
    "with a ReLU": {"relu": True},
    "masked": {"mask": True},
    "ghost batches": {"virtual_batch_size": 4, "mask": True},
    "another axis": {"axis": 1},
}


@pytest.fixture(params=sorted(CASES))
def both(request, rng, monkeypatch):
    """Holds a function of `(loss, x, gamma, beta)` by the library to plain operations."""
    options = {"axis": 3, "mask": None, **CASES[request.param]}
    channels = (6, 3, 4, 5)[options["axis"]]
    x = jnp.asarray(rng.normal(1.0, 2.0, (6, 3, 4, 5)))
    mean, gamma, beta = jnp.asarray(rng.normal(1.0, 0.5, (3, channels)))
    variance = jnp.asarray(rng.uniform(0.5, 9.0, channels))
    if options["mask"]:
        options["mask"] = jnp.asarray(rng.random((6, 3, 4, 1)) < 0.7)

    def loss(x, gamma, beta):
        y, _ = ops.batch_renormalization(
            x, mean, variance, gamma, beta, r_max=1.5, d_max=0.5, **options
        )
        return (y**3).sum()

    def run(function):
        found = []
        for name in ("native", "composite"):
            monkeypatch.setenv(lowerings.VARIABLE, name)
            found.append(function(loss, x, gamma, beta))
        assert found[0]
        for actual, desired in zip(*found, strict=True):
            assert actual.dtype == "float64"
            error = jnp.abs(actual - desired).max()
            assert error <= 1e-11 * (1 + jnp.abs(desired).max())

    return run


ALL = (0, 1, 2)


def squares(function):
    return lambda *sources: sum((value**2).sum() for value in function(*sources))


def test_first_derivatives(both):
    both(lambda loss, *sources: jax.grad(loss, ALL)(*sources))


def test_second_derivatives(both):
    def penalty(loss, *sources):
        return jax.jit(jax.grad(squares(jax.grad(loss, ALL)), ALL))(*sources)

    both(penalty)


def test_third_derivatives(both):
    def penalty(loss, *sources):
        second = jax.grad(squares(jax.grad(loss, ALL)), ALL)
        return jax.jit(jax.grad(squares(second), ALL))(*sources)

    both(penalty)


def test_a_hessian(both):
    def hessian(loss, x, gamma, beta):
        return [jax.jit(jax.jacrev(jax.grad(lambda gamma: loss(x, gamma, beta))))(gamma)]

    both(hessian)


def test_many_examples(both):
    def per_example(loss, x, gamma, beta):
        gradient = jax.grad(lambda gamma, x: loss(x, gamma, beta))
        several = jax.jit(jax.vmap(gradient, (None, 0)))
        return [several(gamma, jnp.stack([x, 2 * x, x + 1]))]

    both(per_example)


def test_a_gradient_is_a_call(monkeypatch):
    monkeypatch.setenv(lowerings.VARIABLE, "native")

    def loss(x):
        return ops.batch_renormalization(x, jnp.zeros(3), jnp.ones(3))[0].sum()

    program = jax.jit(jax.grad(loss)).lower(jnp.ones((4, 3))).as_text()
    assert program.count("@keras_renorm_forward") == 1
    assert program.count("@keras_renorm_backward") == 1
