import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.ops.maths.sums import channel_sum

SHAPES = [((300, 3), 1), ((0, 3), 1), ((70_000, 2), 1), ((5, 4, 600), 1), ((2, 3, 4, 5, 6), 3)]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("jit", [True, False])
def test_equals_numpy(rng, shape, axis, known, jit):
    x = rng.normal(1.0, 1.0, shape).astype("float32")
    spec = shape if known else [size if i == axis else None for i, size in enumerate(shape)]
    summed = tf.function(
        lambda x: channel_sum(x, axis),
        jit_compile=jit,
        input_signature=[tf.TensorSpec(spec, tf.float32)],
    )
    axes = tuple(i for i in range(len(shape)) if i != axis)
    np.testing.assert_allclose(summed(x), x.astype("float64").sum(axes), rtol=1e-6)


@pytest.mark.parametrize("jit", [True, False])
def test_many_rows_lose_no_accuracy(rng, jit):
    # Squares of numbers with few bits: one long float32 chain is off by 1e-3 on these.
    x = np.square(np.round(rng.normal(size=(400_000, 4)) * 16) / 16).astype("float32")
    result = tf.function(lambda x: channel_sum(x, 1), jit_compile=jit)(x)
    np.testing.assert_allclose(result, x.astype("float64").sum(0), rtol=2e-6)


def test_infinities_and_nans_stay():
    x = np.zeros((1000, 3), "float32")
    x[500] = [np.inf, -np.inf, np.nan]
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(channel_sum(x, 1)), [np.inf, -np.inf, np.nan]
    )
