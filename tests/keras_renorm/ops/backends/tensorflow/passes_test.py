import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if keras.backend.backend() != "tensorflow":
    pytest.skip("the native passes under TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops import reference
from keras_renorm.ops.backends.tensorflow import passes as native
from keras_renorm.ops.maths import passes as composite
from keras_renorm.ops.maths.operands import Affine, Line, Settings
from keras_renorm.ops.native import loader

if not loader.library_path().is_file():
    pytest.skip("the native library is not built", allow_module_level=True)

# A unit in the last place of what is rounded to the type, and the sums' error.
ROUNDING = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-6, "float64": 1e-13}


def check(actual, expected, rounding):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    actual, expected = (tf.cast(value, "float64").numpy() for value in (actual, expected))
    allowed = rounding * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


@st.composite
def cases(draw):
    shape = [draw(st.integers(0, 9)), *draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))]
    axis, dtype = draw(st.integers(0, len(shape) - 1)), draw(st.sampled_from([*ROUNDING]))
    shape[axis] = max(1, shape[axis])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = None
    if draw(st.booleans()):
        mask = rng.random([n if draw(st.booleans()) else 1 for n in shape]) > 0.4
    return rng, tuple(shape), axis, dtype, mask, draw(st.booleans())


@given(cases())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_passes_are_those_of_plain_operations(case):
    """Also of no rows, and of NaN under the mask."""
    rng, shape, axis, dtype, mask, relu = case
    x, dy = (tf.cast(a, dtype) for a in rng.normal(1.0, 2.0, (2, *shape)))
    wide = "float64" if dtype == "float64" else "float32"
    vectors = [tf.constant(v, wide) for v in rng.normal(size=(6, shape[axis]))]
    vectors[1] *= 0.01
    affine, line, settings = Affine(*vectors[:4]), Line(*vectors[4:]), Settings(axis, relu=relu)
    # Away from 0, where the two may round to different sides of the ReLU.
    output = composite.normalize(tf.cast(x, wide), affine, Settings(axis))
    x = tf.where(tf.abs(output) < 0.1, x + tf.cast(1, dtype), x)
    output = composite.normalize(tf.cast(x, wide), affine, Settings(axis))
    dy = tf.where(tf.abs(output) < 0.05, tf.zeros_like(dy), dy)
    received = tf.where(output > 0, dy, tf.zeros_like(dy)) if relu else dy
    if mask is not None:
        mask = tf.constant(mask)
        x, dy, received = (tf.where(mask, a, tf.cast(np.nan, dtype)) for a in (x, dy, received))
    both = (native, composite)
    batches = [module.moments(x, mask, settings)[0] for module in both]
    for name in ("variance", "count"):
        check(*(getattr(batch, name) for batch in batches), ROUNDING[wide])
    check(*(batch.mean + batch.mean_remainder for batch in batches), ROUNDING[wide])
    upstream = zip(both, (dy, received), strict=True)  # plain operations know of no ReLU there
    sums = [module.gradient_sums(dy, x, affine, mask, settings) for module, dy in upstream]
    for pair in zip(*sums, strict=True):
        check(*pair, 10 * ROUNDING[wide])
    given = x, affine, line, mask, settings
    gradients = native.input_gradient(dy, *given), composite.input_gradient(received, *given)
    check(*gradients, ROUNDING[dtype])
    if mask is not None:
        x = tf.where(mask, x, tf.zeros_like(x))
    check(*(module.normalize(x, affine, settings) for module in both), ROUNDING[dtype])


def test_mean_and_remainder_are_the_float64_mean(rng):
    x = (rng.normal(size=(500, 4)) + 1e6).astype("f4")
    batch, centre = native.moments(tf.constant(x), None, Settings(axis=1))
    mean, variance, count = reference.moments(x)
    assert {value.dtype for value in batch} == {tf.float32}
    np.testing.assert_array_equal(batch.mean, mean.astype("f4"))
    np.testing.assert_array_equal(centre, batch.mean)
    exact = np.float64(batch.mean) + np.float64(batch.mean_remainder)
    np.testing.assert_allclose(exact, mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(batch.variance, variance, rtol=1e-6)
    np.testing.assert_array_equal(batch.count, count)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_gradient_of_a_relu_is_told_by_its_output(dtype):
    y = tf.constant([0.0, 1e-3, 2.0, 0.0], dtype)
    dy = tf.constant([4.0, -1.0, 3.0, -5.0], dtype)
    dx = native.relu_gradient(dy, y)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(tf.cast(dx, "float32"), [0, -1, 3, 0])
