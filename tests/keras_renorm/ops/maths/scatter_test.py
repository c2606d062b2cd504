import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.ops import Moments
from keras_renorm.ops.maths.scatter import among_ghosts

EPSILON = 1e-3


def moments(mean, variance, count, remainder=0.0):
    arrays = np.broadcast_arrays(mean, variance, count, remainder)
    return Moments(*(np.asarray(a, "float32") for a in (*arrays[:3], arrays[3])))


def found(batch, ops=np):
    given = np.asarray if ops is np else keras.ops.convert_to_tensor
    near = given(np.float32(0))
    result = among_ghosts(Moments(*map(given, batch)), near, EPSILON, ops=ops)
    return [keras.ops.convert_to_numpy(value) for value in result]


@pytest.mark.parametrize("ops", [np, keras.ops], ids=["numpy", "keras"])
def test_equal_ghosts_have_the_variance_of_a_sample(rng, ops):
    mean, variance = rng.normal(size=(5, 3)), rng.uniform(0.5, 2, (5, 3))
    variances, ghosts = found(moments(mean, variance, 8), ops)
    desired = [mean.var(0, ddof=1), np.sqrt(variance + EPSILON).var(0, ddof=1)]
    np.testing.assert_allclose(variances, desired, rtol=1e-5)
    np.testing.assert_array_equal(ghosts, np.full(3, 5.0))
    assert variances.dtype == ghosts.dtype == np.float32


@pytest.mark.parametrize("counts", [[8, 8, 3], [64, 1]], ids=str)
def test_ghosts_of_unequal_size_leave_no_bias(rng, counts):
    """Means of so many normal numbers: a ghost of mean size has the variance, and G-th the mean."""
    weights = np.array(counts, float)[:, None]
    total, size = weights.sum(), len(counts)
    values = rng.normal(0, 2, (size, 20_000)) / np.sqrt(weights)
    variances, ghosts = found(moments(values, 1.0, weights))
    assert np.mean(variances[0]) == pytest.approx(4 * size / total, rel=0.05)
    np.testing.assert_array_equal(ghosts, np.full(20_000, float(size)))
    mean = np.sum(weights / total * values, axis=0)
    assert np.var(mean) == pytest.approx(np.mean(variances[0]) / size, rel=0.05)


def test_ghosts_without_moments_are_left_out(rng):
    mean, variance = rng.normal(size=(4, 2)), rng.uniform(0.5, 2, (4, 2))
    desired = found(moments(mean[:3], variance[:3], 8))
    for bad in ({"mean": np.nan}, {"variance": np.inf}, {"count": 0}):
        given = moments(mean, variance, 8)._asdict()
        for name, value in bad.items():
            given[name][3] = value
        for actual, wanted in zip(found(Moments(**given)), desired, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5)


@pytest.mark.parametrize("ops", [np, keras.ops], ids=["numpy", "keras"])
@pytest.mark.parametrize("counts", [[], [8.0], [8.0, 0.0], [0.0, 0.0]], ids=str)
def test_without_two_ghosts_there_is_none(counts, ops):
    counts = np.array(counts)[:, None]
    variances, ghosts = found(moments(np.ones((len(counts), 2)), 1.0, counts), ops)
    np.testing.assert_array_equal(variances, np.zeros((2, 2)))
    np.testing.assert_array_equal(ghosts, [np.count_nonzero(counts)] * 2)


@pytest.mark.parametrize("mode", ["numpy", "graph", "jit"])
def test_a_large_mean_hides_nothing(rng, mode):
    """What float32 does not hold of the means is in their remainders."""
    exact = 1e6 + rng.normal(0, 0.01, (16, 4))
    mean = exact.astype("float32")
    batch, near = moments(mean, 1.0, 8, exact - mean), np.full(4, 1e6, "float32")
    if mode == "numpy":
        variances = among_ghosts(batch, near, EPSILON, ops=np).variances
    else:
        run = tf.function(
            lambda *b: among_ghosts(Moments(*b), near, EPSILON), jit_compile=mode == "jit"
        )
        variances = run(*map(tf.constant, batch)).variances
    np.testing.assert_allclose(variances[0], exact.var(0, ddof=1), rtol=1e-3)
