import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's fused kernel", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.backends.tensorflow import fused

EPSILON = 1e-3


def run(x, dy, vectors, limits, relu):
    result = fused.forward(x, *vectors, *map(tf.constant, limits), epsilon=EPSILON, relu=relu)
    return result, fused.backward(dy, result.saved, epsilon=EPSILON)


def compiled(mode):
    if mode == "eager":
        return run
    return tf.function(run, jit_compile=mode == "jit", autograph=False)


@pytest.fixture
def inputs(rng):
    def make(shape, offset=0.0, outlier=False):
        x, dy = rng.normal(size=(2, *shape)).astype("float32")
        x += np.float32(offset)
        if outlier:
            x[0] = 0
        channels = shape[-1]
        vectors = [*rng.normal(size=(2, channels)), rng.normal(size=channels) + offset]
        vectors.append(rng.uniform(0.5, 2, channels))
        return tf.constant(x), tf.constant(dy), [tf.constant(v, tf.float32) for v in vectors]

    return make


def check(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("limits", [(1.0, 0.0), (3.0, 5.0)])
@pytest.mark.parametrize("shape", [(60, 7), (9, 5, 4), (4, 6, 5, 16), (2, 3, 4, 5, 8)])
def test_agrees_with_float64(float64, inputs, shape, limits, relu, mode):
    x, dy, vectors = inputs(shape)
    result, gradients = compiled(mode)(x, dy, vectors, limits, relu)
    arrays = [v.numpy() for v in vectors]
    expected = float64(x, dy, arrays, limits, axis=len(shape) - 1, epsilon=EPSILON, relu=relu)
    check(result.y, expected["y"])
    check(result.mean, expected["mean"][0])
    check(result.variance, expected["variance"][0])
    check(result.count, expected["count"][0])
    for gradient, key in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        check(gradient, expected[key], 1e-4)


@pytest.mark.parametrize(("outlier", "tolerance"), [(False, 1e-5), (True, 1e-4)])
def test_a_large_mean_costs_little_accuracy(float64, inputs, outlier, tolerance):
    x, dy, vectors = inputs((4000, 10), 1e6, outlier)
    result, _ = run(x, dy, vectors, (3.0, 5.0), relu=False)
    arrays = [v.numpy() for v in vectors]
    expected = float64(x, dy, arrays, (3.0, 5.0), axis=1, epsilon=EPSILON)
    np.testing.assert_allclose(result.variance, expected["variance"][0], rtol=tolerance)
    check(result.y, expected["y"], tolerance)


def test_the_moments_of_no_rows_are_0(inputs):
    x, dy, vectors = inputs((5, 4))
    result, gradients = run(x[:0], dy[:0], vectors, (3.0, 5.0), relu=False)
    np.testing.assert_array_equal(result.mean, 0)
    np.testing.assert_array_equal(result.variance, 0)
    assert result.y.shape == gradients[0].shape == (0, 4)
    assert not np.any(gradients[1])
    assert not np.any(gradients[2])


def test_what_fits():
    def fits(shape=(8, 4), dtype="float32", **changes):
        settings = {"axis": len(shape) - 1, "epsilon": EPSILON, "weighted": False, "ghosts": False}
        return fused.fits(tf.zeros(shape, dtype), **(settings | changes))

    assert fits()
    assert fits((2, 3, 4, 5, 6))
    assert not fits(axis=0)
    assert not fits(dtype="bfloat16")
    assert not fits(dtype="float64")
    assert not fits(weighted=True)
    assert not fits(ghosts=True)
    assert not fits(epsilon=1e-6)
