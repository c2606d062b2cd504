import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's fused kernel", allow_module_level=True)

import tensorflow as tf

from keras_renorm import ops
from keras_renorm.layers import BatchNormalization
from keras_renorm.ops.backends.tensorflow import fused
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps import lowerings

EPSILON = 1e-3


def run(x, dy, vectors, limits, relu):
    """The output, the moments, and the gradients."""
    settings = Settings(len(x.shape) - 1, EPSILON, relu)
    constants = Constants(*vectors[2:], *map(tf.constant, limits))
    (y, *batch), kept = fused.forward(Arguments(x, *vectors[:2]), constants, settings)
    return y, Moments(*batch), fused.backward(dy, kept, settings)


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
    y, batch, gradients = compiled(mode)(x, dy, vectors, limits, relu)
    arrays = [v.numpy() for v in vectors]
    expected = float64(x, dy, arrays, limits, axis=len(shape) - 1, epsilon=EPSILON, relu=relu)
    check(y, expected["y"])
    check(batch.mean, expected["mean"][0])
    check(batch.variance, expected["variance"][0])
    check(batch.count, expected["count"][0])
    for gradient, key in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        check(gradient, expected[key], 1e-4)


@pytest.mark.parametrize(("outlier", "tolerance"), [(False, 1e-5), (True, 1e-4)])
def test_a_large_mean_costs_little_accuracy(float64, inputs, outlier, tolerance):
    x, dy, vectors = inputs((4000, 10), 1e6, outlier)
    y, batch, _ = run(x, dy, vectors, (3.0, 5.0), relu=False)
    arrays = [v.numpy() for v in vectors]
    expected = float64(x, dy, arrays, (3.0, 5.0), axis=1, epsilon=EPSILON)
    np.testing.assert_allclose(batch.variance, expected["variance"][0], rtol=tolerance)
    check(y, expected["y"], tolerance)


def test_the_moments_of_no_rows_are_0(inputs):
    x, dy, vectors = inputs((5, 4))
    y, batch, gradients = run(x[:0], dy[:0], vectors, (3.0, 5.0), relu=False)
    np.testing.assert_array_equal(batch.mean, 0)
    np.testing.assert_array_equal(batch.variance, 0)
    assert y.shape == gradients[0].shape == (0, 4)
    assert not np.any(gradients[1])
    assert not np.any(gradients[2])


def test_what_fits():
    def fits(shape=(8, 4), dtype="float32", mask=None, **changes):
        settings = Settings(len(shape) - 1, EPSILON)._replace(**changes)
        return fused.TrainingKernel().fits(tf.zeros(shape, dtype), mask, settings)

    assert fits()
    assert fits((2, 3, 4, 5, 6))
    assert not fits(axis=0)
    assert not fits(dtype="bfloat16")
    assert not fits(dtype="float64")
    assert not fits(mask=tf.ones((8, 1), tf.bool))
    assert not fits(ghost_size=2)
    assert not fits(epsilon=1e-6)


@pytest.fixture
def chosen(monkeypatch):
    monkeypatch.setenv(lowerings.VARIABLE, "fused")


@pytest.mark.usefixtures("chosen")
def test_batches_of_unknown_size_in_a_graph(rng):
    """A stride that the graph computes loses the rank, which AutoGraph's branches need."""
    x = rng.normal(size=(20, 3)).astype("float32")

    def step(x):
        return ops.training_step(x, tf.zeros(3), tf.ones(3), momentum=0.9)

    traced = tf.function(step, input_signature=[tf.TensorSpec([None, 3])])
    for part in (x, x[:4], x[:0]):
        (y, moving), (desired_y, desired) = traced(part), step(part)
        check(y, desired_y)
        for actual, value in zip(moving, desired, strict=True):
            check(actual, value)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("shape", [(3,), (4, 4, 3)])
def test_fit_on_rows_that_the_batch_size_does_not_divide(rng, shape):
    x, y = rng.normal(size=(20, *shape)).astype("float32"), rng.normal(size=(20, 2))
    model = keras.Sequential(
        [
            keras.Input(shape),
            BatchNormalization(activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse")
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[1] < history[0]
