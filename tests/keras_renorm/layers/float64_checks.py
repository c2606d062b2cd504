"""What holds in float64; `backends_test.py` runs this, under JAX with JAX_ENABLE_X64=1."""

import keras
import numpy as np
import pytest

from keras_renorm import layers, ops
from keras_renorm.ops import reference

LIMITS = {"r_max": 1.5, "d_max": 0.5}


FIRST = "native" if keras.backend.backend() == "jax" else ""


@pytest.fixture(autouse=True, params=[FIRST, "composite"], ids=["first", "composite"])
def lowering(request, monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", request.param)


def assert_close(actual, desired):
    assert keras.backend.standardize_dtype(actual.dtype) == "float64"
    actual = keras.ops.convert_to_numpy(actual)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-13 * np.abs(desired).max())


@pytest.mark.parametrize("masked", [False, True])
def test_output_and_gradients_equal_the_reference(rng, vector_jacobian, masked):
    x, dy = rng.normal(1.0, 2.0, (2, 6, 7, 5))
    gamma, beta, mu = rng.normal(1.0, 0.5, (3, 5))
    variance = rng.uniform(0.5, 9.0, 5)
    mask = rng.random((6, 7, 1)) > 0.3 if masked else None
    sigma = np.sqrt(variance + 1e-3)
    step = reference.forward(
        x, gamma, beta, mu, sigma, **LIMITS, alpha=0.01, epsilon=1e-3, mask=mask
    )
    desired = reference.backward(dy, x, gamma, step, mask)

    def normalize(x, gamma, beta):
        return ops.batch_renormalization(x, mu, variance, gamma, beta, mask=mask, **LIMITS)[0]

    y, gradients = vector_jacobian(normalize, (x, gamma, beta), dy)
    assert_close(y, step.y)
    for actual, gradient in zip(gradients, desired, strict=True):
        assert_close(actual, gradient)


@pytest.mark.parametrize("ghosts", [None, 4])
def test_layers_train_in_float64(rng, ghosts):
    x = rng.normal(3.0, 2.0, (8, 5))
    layer = layers.BatchNormalization(dtype="float64", virtual_batch_size=ghosts)
    y = layer(x, training=True)
    parts = x.reshape(-1, ghosts or 8, 5)
    centred = parts - parts.mean(1, keepdims=True)
    assert_close(y, (centred / np.sqrt(parts.var(1, keepdims=True) + 1e-3)).reshape(8, 5))
    assert keras.backend.standardize_dtype(layer.moving_mean.dtype) == "float64"


def test_a_large_mean_keeps_its_digits(rng):
    x = rng.normal(1e8, 1.0, (64, 3))
    layer = layers.BatchRenormalization(dtype="float64", momentum=0.0)
    y = layer(x, training=True)
    centred = (x - 1e8) - (x - 1e8).mean(0)
    variance = np.square(centred).mean(0)
    desired = centred / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y), desired, rtol=0, atol=1e-13)
    found = keras.ops.convert_to_numpy(layer.moving_variance)
    np.testing.assert_allclose(found, variance, rtol=1e-13)
