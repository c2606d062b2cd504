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


@pytest.fixture
def gpu(monkeypatch):
    """A list of devices with a GPU, without which these kernels' other forms run on the CPU."""
    device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(
        tf.config, "get_visible_devices", lambda kind: [device] if kind == "GPU" else []
    )


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


@pytest.mark.usefixtures("gpu")
def test_what_fits_on_a_gpu():
    def fits(shape=(8, 4), dtype="float32", axis=-1, **changes):
        settings = Settings(axis % len(shape), EPSILON)._replace(**changes)
        with tf.Graph().as_default():  # a graph has no devices before it runs
            return fused.TrainingKernel().fits(tf.zeros(shape, dtype), None, settings)

    for dtype in ("float16", "bfloat16", "float32"):
        for axis in range(-4, 0):
            assert fits((2, 3, 4, 5), dtype, axis)
    assert not fits(dtype="float64")
    assert not fits(ghost_size=2)
    assert not fits(epsilon=1e-6)


STEP = {"r_max": 1.5, "d_max": 0.5, "momentum": 0.9}


def step_of(axis, relu, **limits):
    def step(x, dy, gamma, beta, mean, variance):
        with tf.GradientTape() as tape:
            tape.watch((x, gamma, beta))
            y, moving = ops.training_step(
                *(x, mean, variance, gamma, beta), **(STEP | limits), axis=axis, relu=relu
            )
        return y, moving, tape.gradient(y, (x, gamma, beta), dy)

    return step


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("limits", [(1.0, 0.0), (1.5, 0.5)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_what_a_gpu_would_run_agrees_with_float64(rng, float64, axis, dtype, limits, relu, known):
    """On the CPU; cuDNN has other digits."""
    x, dy = (tf.cast(a, dtype) for a in rng.normal(1.0, 2.0, (2, 6, 3, 4, 5)))
    vectors = [tf.constant(v, tf.float32) for v in rng.uniform(0.5, 2.0, (4, x.shape[axis]))]
    run = tf.function(step_of(axis, relu, r_max=limits[0], d_max=limits[1]), autograph=False)
    sizes = [size if known or i == axis else None for i, size in enumerate(x.shape)]
    specs = [tf.TensorSpec(sizes, dtype)] * 2 + [tf.TensorSpec(v.shape) for v in vectors]
    traced = run.get_concrete_function(*specs)
    kinds = [op.type for op in traced.graph.get_operations()]
    assert kinds.count("FusedBatchNormV3") == (1 if limits == (1.0, 0.0) else 2)
    assert kinds.count("FusedBatchNormGradV3") == 1
    y, moving, gradients = traced(x, dy, *vectors)
    x, dy = (tf.cast(a, "float64").numpy() for a in (x, dy))
    desired = float64(x, dy, [v.numpy() for v in vectors], limits, axis=axis, relu=relu)
    near = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    scale = max(1, np.abs(desired["y"]).max())
    np.testing.assert_allclose(tf.cast(y, "float64"), desired["y"], rtol=0, atol=near * scale)
    mean = 0.9 * vectors[2] + 0.1 * desired["mean"][0]
    np.testing.assert_allclose(moving.mean, mean, rtol=2e-6)
    variance = 0.9 * vectors[3] + 0.1 * desired["variance"][0]
    np.testing.assert_allclose(moving.variance, variance, rtol=2e-6)
    away = np.abs(desired["y"]).min(initial=1) > 1e-3 or not relu
    for gradient, name in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        if away or name != "dx":
            scale = max(1, np.abs(desired[name]).max())
            found = tf.cast(gradient, "float64")
            np.testing.assert_allclose(found, desired[name], rtol=0, atol=2 * near * scale)


@pytest.mark.usefixtures("gpu")
def test_plain_operations_are_for_xla_which_fuses_them(rng):
    x = tf.constant(rng.normal(size=(6, 3, 4, 5)), tf.float32)
    vectors = [tf.ones(5)] * 4
    kinds = {}
    for jit in (False, True):
        run = tf.function(step_of(3, relu=True), jit_compile=jit, autograph=False)
        graph = run.get_concrete_function(x, x, *vectors).graph
        kinds[jit] = {op.type for op in graph.get_operations()}
    assert "FusedBatchNormV3" in kinds[False] - kinds[True]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_inference_on_a_gpu_takes_channels_anywhere(rng, axis):
    x = tf.constant(rng.normal(1.0, 2.0, (6, 3, 4, 5)), tf.float32)
    vectors = rng.uniform(0.5, 2.0, (4, x.shape[axis])).astype("f4")
    run = tf.function(lambda x: ops.inference_step(x, *vectors, axis=axis))
    graph = run.get_concrete_function(x).graph
    assert "FusedBatchNormV3" in {op.type for op in graph.get_operations()}
    mean, variance, gamma, beta = (
        np.float64(v).reshape([-1 if i == axis else 1 for i in range(4)]) for v in vectors
    )
    desired = (x.numpy() - mean) * gamma / np.sqrt(variance + EPSILON) + beta
    np.testing.assert_allclose(run(x), desired, rtol=0, atol=2e-5)


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
