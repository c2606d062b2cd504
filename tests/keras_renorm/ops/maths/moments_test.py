import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_renorm import ops
from keras_renorm.ops import reference


def channels_last(x, axis):
    return np.moveaxis(x, axis, -1)


def check(x, axis=-1, mask=None, rtol=1e-5):
    """Holds `ops.moments` against float64 moments of the same rounded input."""
    result = ops.moments(x, axis=axis, mask=mask)
    full_mask = None if mask is None else channels_last(np.broadcast_to(mask, x.shape), axis)
    mean, variance, count = reference.moments(channels_last(x, axis), full_mask)
    np.testing.assert_allclose(result.variance, variance, rtol=rtol, atol=1e-30)
    np.testing.assert_array_equal(result.count, count)
    exact = np.asarray(result.mean, "float64") + np.asarray(result.mean_remainder, "float64")
    tolerance = rtol * np.sqrt(variance + 1e-12 * mean**2)
    assert np.all(np.abs(exact - mean) <= tolerance)
    assert np.all(np.asarray(result.variance) >= 0)


@st.composite
def cases(draw):
    rank = draw(st.integers(2, 5))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=rank, max_size=rank)))
    axis = draw(st.integers(-rank, rank - 1))
    seed = draw(st.integers(0, 2**32 - 1))
    offset = draw(st.sampled_from([0.0, 1.0, -1e3, 1e6]))
    scale = draw(st.sampled_from([1.0, 1e-3, 30.0]))
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * scale + offset).astype("float32")
    mask = None
    if draw(st.booleans()):
        kept = [size if draw(st.booleans()) else 1 for size in shape]
        mask = rng.random(kept) > 0.4
    return x, axis, mask


@hypothesis.given(cases())
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
def test_any_shape_axis_mask_and_offset(case):
    x, axis, mask = case
    if mask is not None:
        x = np.where(np.broadcast_to(mask, x.shape), x, np.nan).astype("float32")
    check(x, axis, mask)


@pytest.mark.parametrize("shape", [(256, 8), (400_000, 4), (16, 28, 28, 8), (2, 70_000, 3)])
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_large_means(rng, shape, jit, known):
    x = (rng.normal(size=shape) + 1e6).astype("float32")
    spec = shape if known else [None] * (len(shape) - 1) + [shape[-1]]
    compiled = tf.function(
        lambda x: ops.moments(x),
        jit_compile=jit,
        input_signature=[tf.TensorSpec(spec, tf.float32)],
    )
    result = compiled(x)
    mean, variance, _ = reference.moments(x)
    np.testing.assert_allclose(result.variance, variance, rtol=1e-5)
    # The remainder holds what float32's spacing of 0.06 at 1e6 takes from the mean.
    exact = np.asarray(result.mean, "float64") + np.asarray(result.mean_remainder, "float64")
    np.testing.assert_allclose(exact, mean, atol=1e-5)


@pytest.mark.parametrize("outliers", ["first position", "first example"])
def test_an_outlier_where_the_sample_starts(rng, outliers):
    x = (rng.normal(size=(64, 14, 14, 4)) + 1e6).astype("float32")
    x[(0, 0, 0) if outliers == "first position" else 0] = 0
    check(x)


def test_a_masked_large_mean(rng):
    x = (rng.normal(size=(64, 50, 4)) + 1e6).astype("float32")
    mask = rng.random((64, 50, 1)) > 0.9
    check(np.where(mask, x, -np.inf).astype("float32"), mask=mask)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(rng, dtype):
    x = tf.cast(rng.normal(3.0, 2.0, (40, 5)), dtype)
    result = ops.moments(x)
    mean, variance, _ = reference.moments(tf.cast(x, "float64").numpy())
    assert result.mean.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(result.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(
        result.variance, variance, rtol=1e-12 if dtype == "float64" else 1e-5
    )


def test_float16_near_its_limit():
    x = np.array([[6e4], [-6e4], [6e4], [-6e4]], "float16")
    result = ops.moments(x)
    assert result.mean == 0
    np.testing.assert_allclose(result.variance, np.float64(np.float16(6e4)) ** 2, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3)])
def test_no_positions(shape):
    result = ops.moments(np.zeros(shape, "float32"))
    for value in result:
        np.testing.assert_array_equal(value, np.zeros(3))


def test_all_masked():
    result = ops.moments(np.full((4, 3), np.nan, "float32"), mask=np.zeros((4, 1)))
    for value in result:
        np.testing.assert_array_equal(value, np.zeros(3))


def test_constant_channels_have_variance_zero():
    for value in (0.0, 1 / 3, 1e6 + 0.3, -1e30):
        result = ops.moments(np.full((1000, 1), value, "float32"))
        assert result.variance == 0
        assert result.mean == np.float32(value)


def test_a_channel_that_is_not_finite_does_not_touch_the_others(rng):
    x = rng.normal(size=(50, 4)).astype("float32")
    x[7, 1], x[9, 2] = np.nan, np.inf
    result = ops.moments(x)
    mean, variance, _ = reference.moments(x[:, [0, 3]])
    assert not np.isfinite(result.mean[1])
    assert not np.isfinite(result.variance[2])
    np.testing.assert_allclose(np.asarray(result.mean)[[0, 3]], mean, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(result.variance)[[0, 3]], variance, rtol=1e-5)


def test_is_differentiable(rng):
    x = tf.constant(rng.normal(2.0, 1.0, (6, 2)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        mean, variance, _, _ = ops.moments(x)
    np.testing.assert_allclose(tape.gradient(mean, x), np.full((6, 2), 1 / 6), rtol=1e-12)
    expected = 2 * (x - tf.reduce_mean(x, 0)) / 6
    np.testing.assert_allclose(tape.gradient(variance, x), expected, rtol=1e-9)


def test_equals_keras_for_ordinary_data(rng):
    x = rng.normal(0.5, 2.0, (8, 7, 6, 5)).astype("float32")
    mean, variance = keras.ops.moments(x, axes=(0, 2, 3))
    result = ops.moments(x, axis=1)
    np.testing.assert_allclose(result.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.variance, variance, rtol=1e-5)


def test_channels_are_not_the_ghosts(rng):
    message = r"must be another one; received axis=0 for `x` of shape \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        ops.moments(rng.normal(size=(3, 2)), axis=0, ghosts=True)


@pytest.mark.parametrize(
    "use",
    [
        lambda batch, *moving: ops.renorm_correction(batch, *moving, r_max=3.0, d_max=5.0),
        lambda batch, *moving: ops.update_moving(
            *moving, batch, momentum=0.9, epsilon=1e-3, by_stddev=True
        ),
    ],
)
def test_statistics_of_other_channels_are_refused(rng, use):
    """They would be broadcast against those of one channel."""
    batch = ops.moments(rng.normal(size=(4, 1)))
    right, wrong = np.ones(1), np.ones((2, 3))
    message = r"` must have one entry per channel .*, 1 in its last axis; received shape "
    with pytest.raises(ValueError, match=rf"`moving_mean{message}\(2, 3\)"):
        use(batch, wrong, right)
    with pytest.raises(ValueError, match=rf"`moving_variance{message}\(2, 3\)"):
        use(batch, right, wrong)
    with pytest.raises(ValueError, match=rf"`moving_mean{message}\(\)"):
        use(batch, np.float64(0.0), right)

    @tf.function(input_signature=2 * [tf.TensorSpec([None], tf.float64)])
    def unknown(mean, variance):
        return use(batch, mean, variance)

    for found, desired in zip(unknown(right, right), use(batch, right, right), strict=True):
        np.testing.assert_array_equal(found, desired)
