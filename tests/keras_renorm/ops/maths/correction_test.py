import math

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("float64 and gradients under TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm import ops
from keras_renorm.ops import reference
from keras_renorm.ops.maths.correction import renorm_correction

EPSILON = 1e-3


def expected(x, mu, variance, r_max, d_max):
    sigma = np.sqrt(np.float64(variance) + EPSILON)
    options = {"r_max": r_max, "d_max": d_max, "alpha": 0.1, "epsilon": EPSILON}
    return reference.forward(x, 1, 0, mu, sigma, **options)


# 1.1 and 0.3 are no float32 numbers.
@pytest.mark.parametrize("limits", [(1.1, 0.3), (1.5, 0.5), (3.0, 5.0), (math.inf, math.inf)])
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float64", 1e-14)])
def test_equals_the_reference_in_the_type_of_the_moments(rng, limits, dtype, rtol):
    x, mu = rng.normal(1.0, 3.0, (20, 40)).astype(dtype), rng.normal(0.0, 3.0, 40).astype(dtype)
    variance = rng.uniform(0.1, 30, 40).astype(dtype)
    r_max, d_max = limits
    options = {"r_max": r_max, "d_max": d_max, "epsilon": EPSILON}
    found = renorm_correction(ops.moments(x), mu, variance, **options)
    desired = expected(x, mu, variance, r_max, d_max)
    for actual, value in zip(found, (desired.r, desired.d), strict=True):
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual, value, rtol=rtol, atol=rtol)
    if r_max < 3:  # both limits of both are met
        assert (np.ptp(desired.r), np.ptp(desired.d)) == (r_max - 1 / r_max, 2 * d_max)


def test_statistics_given_as_lists_keep_the_moments_precision(rng):
    x, mu, variance = rng.normal(1.0, 3.0, (20, 2)), [0.1, 0.2], [1.1, 0.9]  # no float32 numbers
    options = {"r_max": math.inf, "d_max": math.inf, "epsilon": EPSILON}
    found = renorm_correction(ops.moments(x), mu, variance, **options)
    desired = expected(x, mu, variance, math.inf, math.inf)
    np.testing.assert_allclose(found.r, desired.r, rtol=1e-14)
    np.testing.assert_allclose(found.d, desired.d, rtol=1e-14)


def test_ghost_batches_have_corrections_of_their_own(rng):
    x, mu, variance = rng.normal(1.0, 3.0, (4, 7, 3)).astype("f4"), np.zeros(3), np.ones(3)
    batch = ops.moments(x, ghosts=True)
    found = renorm_correction(batch, mu, variance, r_max=3.0, d_max=1.0, epsilon=EPSILON)
    for g in range(4):
        desired = expected(x[g], mu, variance, 3.0, 1.0)
        np.testing.assert_allclose(found.r[g], desired.r, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.d[g], desired.d, rtol=0, atol=1e-6)


def test_d_is_exact_at_a_large_mean(rng):
    """A float32 mean of 1e6 alone is off by up to 0.03."""
    x = (rng.normal(size=(50, 8)) + 1e6).astype("f4")
    mu, variance = np.full(8, 1e6, "f4"), np.ones(8, "f4")
    options = {"r_max": 3.0, "d_max": 5.0, "epsilon": EPSILON}
    found = renorm_correction(ops.moments(x), mu, variance, **options)
    np.testing.assert_allclose(found.d, expected(x, mu, variance, 3.0, 5.0).d, rtol=0, atol=1e-5)


def test_limits_of_one_and_zero_are_exact_whatever_the_statistics():
    mean = variance = np.array([0, 1e-38, 3e38, np.inf], "f4")
    batch = ops.Moments(mean, variance, np.ones(4, "f4"), np.zeros(4, "f4"))
    for moving in (0.0, 1e-30, 1e30):
        vector = np.full(4, moving, "f4")
        r, d = renorm_correction(batch, vector, vector, r_max=1.0, d_max=0.0)
        np.testing.assert_array_equal(r, 1)
        np.testing.assert_array_equal(d, 0)


def test_moments_without_positions_are_corrected_within_the_limits():
    batch = ops.moments(np.zeros((0, 2), "f4"))
    r, d = renorm_correction(batch, np.array([9.0, -9.0]), np.ones(2), r_max=3.0, d_max=5.0)
    np.testing.assert_allclose(r, 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(d, [-5, 5])


def test_there_is_no_gradient(rng):
    tensors = [tf.constant(rng.uniform(1, 2, shape)) for shape in ((5, 3), (3,), (3,), (), ())]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        x, mu, variance, r_max, d_max = tensors
        found = renorm_correction(ops.moments(x), mu, variance, r_max=r_max, d_max=d_max)
    assert tape.gradient(found.r, tensors) == tape.gradient(found.d, tensors) == [None] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_max": 0.99}, "`r_max` must be at least 1, received r_max=0.99"),
        ({"r_max": math.nan}, "`r_max` must be at least 1, received r_max=nan"),
        ({"d_max": -1}, "`d_max` must be at least 0, received d_max=-1"),
        ({"epsilon": 0}, "`epsilon` must be finite and greater than 0, received epsilon=0"),
    ],
)
def test_numbers_out_of_range_are_named(options, message):
    batch = ops.moments(np.zeros((2, 1), "f4"))
    with pytest.raises(ValueError, match=message):
        renorm_correction(batch, [0.0], [1.0], **{"r_max": 1.0, "d_max": 0.0, **options})
