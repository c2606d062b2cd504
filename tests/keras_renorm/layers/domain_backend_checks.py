"""Layers with domains, and SkipInit, on other backends; `backends_test.py` runs this."""

import os

import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.ops import domains, reference

# Under torch.compile Keras's conversions of types warn.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
]

IDS = np.array([0, 2, 2, 0, 2, 0], "int32")  # of 3 domains, one of which is absent
LIMITS, EPSILON = {"r_max": 1.5, "d_max": 0.5}, 1e-3
RENORM = layers.DomainBatchRenormalization


def assert_close(actual, desired):
    actual, desired = keras.ops.convert_to_numpy(actual), np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5 * np.abs(desired).max())


def compiled(function):
    """`function` as the backend compiles it, without a look at the values of its arguments."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "torch":
        import torch

        torch.compiler.reset()
        return torch.compile(function, backend="eager", fullgraph=True)
    import tensorflow as tf

    return tf.function(function)


def step_of(x, k, mean, variance, gamma=1.0, beta=0.0, alpha=0.1):
    moving = mean[k], np.sqrt(variance[k] + EPSILON)
    return reference.forward(x, gamma, beta, *moving, **LIMITS, alpha=alpha, epsilon=EPSILON)


def test_the_backend():
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]


@pytest.mark.parametrize("scalar", [False, True])
def test_output_gradients_and_moments_equal_the_reference(rng, vector_jacobian, scalar):
    x, dy = (rng.normal(1.0, 2.0, (6, 5, 4)).astype("f4") for _ in range(2))
    gamma, beta = (rng.normal(1.0, 0.3, 4).astype("f4") for _ in range(2))
    mean, variance = rng.normal(size=(3, 4)), rng.uniform(0.5, 4.0, (3, 4))
    ids = np.full(6, 2, "int32") if scalar else IDS
    moving = [keras.ops.convert_to_tensor(values, "float32") for values in (mean, variance)]

    def run(x, gamma, beta, domain):
        options = {"num_domains": 3, "batch_statistics": "domain", "epsilon": EPSILON, "axis": -1}
        options |= {"domain": domain, "momentum": 0.9, **LIMITS}
        trained = domains.train(x, *moving, gamma, beta, **options)
        return trained.y, trained.moments()

    domain = keras.ops.convert_to_tensor(ids[0] if scalar else ids)
    y, gradients = vector_jacobian(lambda *a: run(*a, domain)[0], (x, gamma, beta), dy)
    y, dx = keras.ops.convert_to_numpy(y), keras.ops.convert_to_numpy(gradients[0])
    _, batch = compiled(run)(*map(keras.ops.convert_to_tensor, (x, gamma, beta)), domain)
    expected = np.zeros(4), np.zeros(4)
    for k in np.unique(ids):
        own = ids == k
        step = step_of(x[own], k, mean, variance, gamma, beta)
        desired = reference.backward(dy[own], x[own], gamma, step)
        assert_close(y[own], step.y)
        assert_close(dx[own], desired.dx)
        assert_close(batch.mean[k], step.mu_b)
        expected = expected[0] + desired.dgamma, expected[1] + desired.dbeta
    assert_close(gradients[1], expected[0])
    assert_close(gradients[2], expected[1])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(batch.count[1]), 0)


def test_fits_and_loads(rng, tmp_path):
    inputs, domain = keras.Input((4,)), keras.Input((), dtype="int32")
    layer = RENORM(3, **LIMITS, momentum=0.9, name="norm")
    skip_init = layers.SkipInit(0.5)
    outputs = keras.layers.Dense(1)(skip_init(layer(inputs, domain=domain)))
    model = keras.Model([inputs, domain], outputs)
    model.compile("sgd", "mse")
    x, ids = rng.normal(2.0, 3.0, (18, 4)).astype("f4"), np.tile(IDS, 3)
    model.fit([x, ids], np.ones((18, 1)), batch_size=6, verbose=0, shuffle=False)
    assert keras.ops.convert_to_numpy(skip_init.alpha) != 0.5
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
    with pytest.raises(ValueError, match=r"received -1, 7\."):
        layer(x, domain=keras.ops.convert_to_tensor([0, 7, 2, -1]))


def test_ids_out_of_range_in_what_is_compiled():
    layer, x = layers.DomainBatchNormalization(3), keras.ops.ones((4, 2))
    layer(x, domain=0)
    run = compiled(lambda x, ids: layer(x, domain=ids))
    y = run(x, keras.ops.convert_to_tensor([0, 1, 2, 3], "int32"))
    y = keras.ops.convert_to_numpy(y)
    np.testing.assert_array_equal(np.isnan(y).all(1), [False, False, False, True])
    y = run(x, keras.ops.convert_to_tensor(-1, "int32"))
    assert np.isnan(keras.ops.convert_to_numpy(y)).all()


@pytest.mark.parametrize("one", [False, True])
def test_compiled_training_is_the_same(rng, one):
    if keras.backend.backend() == "jax":
        return  # JAX has its own way for what changes: `test_fits_and_loads`
    x = keras.ops.convert_to_tensor(rng.normal(1.0, 2.0, (6, 5, 4)), "float32")
    domain, results = 2 if one else keras.ops.convert_to_tensor(IDS), []
    for way in (compiled, lambda function: function):
        layer = RENORM(3, **LIMITS)
        layer(x, domain=domain)
        run = way(lambda x, layer=layer: layer(x, domain=domain, training=True))
        results.append([keras.ops.convert_to_numpy(v) for v in (run(x), run(x), *layer.weights)])
    for actual, desired in zip(*results, strict=True):
        assert_close(actual, desired)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint32"])
def test_ids_of_any_integer_type(dtype):
    layer, x = layers.DomainBatchNormalization(3), np.arange(8.0, dtype="f4").reshape(4, 2)
    y = layer(x, domain=np.array([0, 0, 2, 2], dtype), training=True)
    sign = 1 / np.sqrt(1 + EPSILON)
    assert_close(y, sign * np.array([[-1, -1], [1, 1]] * 2))


def test_keras_own_mask_reaches_a_compiled_fit(rng):
    inputs, ids = keras.Input((5, 4)), keras.Input((), dtype="int32")
    norm = layers.DomainBatchNormalization(3, momentum=0.0)
    model = keras.Model([inputs, ids], norm(keras.layers.Masking()(inputs), domain=ids))
    model.compile("sgd", "mse")
    x = rng.normal(3.0, 2.0, (6, 5, 4)).astype("f4")
    x[:, 3:] = 0.0
    model.fit([x, IDS], x, batch_size=6, verbose=0)
    for k in (0, 2):
        mean, variance, _ = reference.moments(x[np.equal(IDS, k), :3])
        assert_close(norm.moving_mean[k], mean)
        assert_close(norm.moving_variance[k], variance)
