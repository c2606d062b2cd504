"""Layers with domains, and SkipInit, under JAX; `domain_batch_normalization_test.py` runs this."""

import jax
import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.ops import domains, reference

IDS = np.array([0, 2, 2, 0, 2, 0], "int32")  # of 3 domains, one of which is absent
LIMITS, EPSILON = {"r_max": 1.5, "d_max": 0.5}, 1e-3
RENORM = layers.DomainBatchRenormalization


def assert_close(actual, desired):
    desired = np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5 * np.abs(desired).max())


def step_of(x, k, mean, variance, gamma=1.0, beta=0.0, alpha=0.1):
    moving = mean[k], np.sqrt(variance[k] + EPSILON)
    return reference.forward(x, gamma, beta, *moving, **LIMITS, alpha=alpha, epsilon=EPSILON)


def test_the_backend():
    assert keras.backend.backend() == "jax"


@pytest.mark.parametrize("scalar", [False, True])
def test_output_gradients_and_moments_equal_the_reference(rng, scalar):
    x, dy = (rng.normal(1.0, 2.0, (6, 5, 4)).astype("f4") for _ in range(2))
    gamma, beta = (rng.normal(1.0, 0.3, 4).astype("f4") for _ in range(2))
    mean, variance = rng.normal(size=(3, 4)), rng.uniform(0.5, 4.0, (3, 4))
    ids = np.full(6, 2, "int32") if scalar else IDS

    def run(x, gamma, beta, domain):
        parameters = domains.Parameters(mean, variance, gamma, beta, **LIMITS)
        options = {"num_domains": 3, "batch_statistics": "domain", "epsilon": EPSILON, "axis": -1}
        return domains.batch_renormalization(x, domain, parameters, **options)

    domain = ids[0] if scalar else ids
    run = jax.jit(run)
    y, pull_back, batch = jax.vjp(lambda *a: run(*a, domain), x, gamma, beta, has_aux=True)
    dx, dgamma, dbeta = pull_back(dy)
    expected = np.zeros(4), np.zeros(4)
    for k in np.unique(ids):
        own = ids == k
        step = step_of(x[own], k, mean, variance, gamma, beta)
        gradients = reference.backward(dy[own], x[own], gamma, step)
        assert_close(y[own], step.y)
        assert_close(dx[own], gradients.dx)
        assert_close(batch.mean[k], step.mu_b)
        expected = expected[0] + gradients.dgamma, expected[1] + gradients.dbeta
    assert_close(dgamma, expected[0])
    assert_close(dbeta, expected[1])
    np.testing.assert_array_equal(batch.count[1], 0)


def test_fits_and_loads(rng, tmp_path):
    inputs, domain = keras.Input((4,)), keras.Input((), dtype="int32")
    layer = RENORM(3, **LIMITS, momentum=0.9, name="norm")
    skip_init = layers.SkipInit(0.5)
    outputs = keras.layers.Dense(1)(skip_init(layer(inputs, domain=domain)))
    model = keras.Model([inputs, domain], outputs)
    model.compile("sgd", "mse")
    x, ids = rng.normal(2.0, 3.0, (18, 4)).astype("f4"), np.tile(IDS, 3)
    model.fit([x, ids], np.ones((18, 1)), batch_size=6, verbose=0, shuffle=False)
    assert float(skip_init.alpha) != 0.5
    mean, variance = np.zeros((3, 4)), np.ones((3, 4))
    for batch in np.split(x, 3):
        for k in (0, 2):
            step = step_of(batch[k == IDS], k, mean, variance)
            mean[k], variance[k] = step.mu, step.sigma**2 - EPSILON
    assert_close(layer.moving_mean, mean)
    assert_close(layer.moving_variance, variance)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict([x, ids], verbose=0), model.predict([x, ids], verbose=0)
    )


def test_ids_out_of_range():
    layer, x = layers.DomainBatchNormalization(3), np.ones((4, 2), "f4")
    with pytest.raises(ValueError, match=r"received 3\."):
        layer(x, domain=np.array([0, 1, 2, 3]))

    @jax.jit
    def run(x, ids):
        return layer(x, domain=ids)

    y = run(x, np.array([0, 1, 2, 3], "int32"))
    np.testing.assert_array_equal(np.isnan(y).all(1), [False, False, False, True])
    assert np.isnan(run(x, np.int32(-1))).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint32"])
def test_ids_of_any_integer_type(dtype):
    layer, x = layers.DomainBatchNormalization(3), np.arange(8.0, dtype="f4").reshape(4, 2)
    y = layer(x, domain=np.array([0, 0, 2, 2], dtype), training=True)
    sign = 1 / np.sqrt(1 + EPSILON)
    assert_close(y, sign * np.array([[-1, -1], [1, 1]] * 2))
