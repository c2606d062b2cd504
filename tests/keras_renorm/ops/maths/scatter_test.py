import keras
import numpy as np
import pytest

from keras_renorm.ops import Moments
from keras_renorm.ops.maths.scatter import scatter

EPSILON = 1e-3


def moments(mean, variance, count, remainder=0.0):
    arrays = np.broadcast_arrays(mean, variance, count, remainder)
    return Moments(*(np.asarray(a, "float32") for a in (*arrays[:3], arrays[3])))


def found(batch, ops=np):
    given = np.asarray if ops is np else keras.ops.convert_to_tensor
    result = scatter(Moments(*map(given, batch)), EPSILON, ops=ops)
    return [keras.ops.convert_to_numpy(value) for value in result]


@pytest.mark.parametrize("ops", [np, keras.ops], ids=["numpy", "keras"])
def test_equal_ghosts_have_the_variance_of_a_sample(rng, ops):
    mean, variance = rng.normal(size=(5, 3)), rng.uniform(0.5, 2, (5, 3))
    variances, share = found(moments(mean, variance, 8), ops)
    desired = [mean.var(0, ddof=1), np.sqrt(variance + EPSILON).var(0, ddof=1)]
    np.testing.assert_allclose(variances, desired, rtol=1e-5)
    np.testing.assert_allclose(share, np.full(3, 0.2), rtol=1e-6)
    assert variances.dtype == share.dtype == np.float32


def test_ghosts_of_unequal_size_leave_no_bias(rng):
    """Means of the same distribution with weights that have nothing to do with them."""
    values, counts = rng.normal(0, 2, (3, 20_000)), np.array([[8.0], [8.0], [3.0]])
    variances, share = found(moments(values, 1.0, counts))
    assert np.mean(variances[0]) == pytest.approx(4, rel=0.02)
    np.testing.assert_allclose(share, np.sum((counts / 19) ** 2) * np.ones(20_000), rtol=1e-5)
    mean = np.sum(counts / 19 * values, axis=0)
    assert np.var(mean) == pytest.approx(np.mean(share * variances[0]), rel=0.03)


def test_ghosts_without_moments_are_left_out(rng):
    mean, variance = rng.normal(size=(4, 2)), rng.uniform(0.5, 2, (4, 2))
    desired = found(moments(mean[:3], variance[:3], 8))
    for bad in ({"mean": np.nan}, {"variance": np.inf}, {"count": 0}):
        given = moments(mean, variance, 8)._asdict()
        for name, value in bad.items():
            given[name][3] = value
        for actual, wanted in zip(found(Moments(**given)), desired, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5)


@pytest.mark.parametrize("counts", [[8.0], [8.0, 0.0], [0.0, 0.0]], ids=["1", "1 of 2", "none"])
def test_without_two_ghosts_there_is_none(counts):
    counts = np.array(counts)[:, None]
    variances, share = found(moments(np.ones((len(counts), 2)), 1.0, counts))
    np.testing.assert_array_equal(variances, np.zeros((2, 2)))
    np.testing.assert_array_equal(share, [float(counts.any())] * 2)


def test_a_large_mean_hides_nothing(rng):
    """What float32 does not hold of the means is in their remainders."""
    exact = 1e6 + rng.normal(0, 0.01, (16, 4))
    mean = exact.astype("float32")
    variances, _ = found(moments(mean, 1.0, 8, exact - mean))
    np.testing.assert_allclose(variances[0], exact.var(0, ddof=1), rtol=1e-3)
