import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.ops import domains, reference

EPSILON = 1e-12
OPTIONS = {"num_domains": 2, "epsilon": EPSILON, "axis": -1}


def test_inference_by_hand():
    parameters = domains.Parameters([[1.0], [10.0]], [[4.0], [25.0]], [2.0], [[0.0], [1.0]])
    parameters = domains.Parameters(
        *(p if isinstance(p, float) else np.array(p) for p in parameters)
    )
    y = domains.normalize(
        np.array([[5.0], [20.0], [1.0]]), tf.constant([0, 1, 1]), parameters, **OPTIONS
    )
    np.testing.assert_allclose(y, [[4.0], [5.0], [-2.6]], rtol=1e-6)
    y = domains.normalize(np.array([[5.0], [20.0]]), 1, parameters, **OPTIONS)
    np.testing.assert_allclose(y, [[-1.0], [5.0]], rtol=1e-6)


def test_moments_that_were_used_are_pooled_by_positions():
    zeros, ones = np.zeros(1), np.ones(1)
    x, ids = np.array([[0.0], [2.0], [4.0], [10.0]]), tf.constant([0, 0, 0, 1])
    _, batch = domains.batch_renormalization(
        x, ids, domains.Parameters(zeros, ones), batch_statistics="domain", **OPTIONS
    )
    # Domain 0: mean 2, variance 8/3, three of the four positions. Domain 1: mean 10, variance 0.
    np.testing.assert_allclose(batch.mean, [4.0], rtol=1e-6)
    np.testing.assert_allclose(batch.variance, [2.0], rtol=1e-6)
    np.testing.assert_array_equal(batch.count, [4.0])


@pytest.mark.parametrize("batch_statistics", ["shared", "domain"])
def test_rows_hold_the_moments_of_their_domain(batch_statistics):
    zeros, ones = np.zeros((3, 1)), np.ones((3, 1))
    x, ids = np.array([[0.0], [2.0], [4.0], [10.0]]), tf.constant([0, 0, 0, 2])
    _, batch = domains.batch_renormalization(
        x,
        ids,
        domains.Parameters(zeros, ones),
        batch_statistics=batch_statistics,
        **OPTIONS | {"num_domains": 3},
    )
    np.testing.assert_allclose(batch.mean, [[2.0], [0.0], [10.0]])
    np.testing.assert_allclose(batch.variance, [[8 / 3], [0.0], [0.0]], rtol=1e-6)
    np.testing.assert_array_equal(batch.count, [[3.0], [0.0], [1.0]])


def test_large_means(rng):
    ids = np.arange(64) % 2
    x = rng.normal(size=(64, 50, 3)) + np.where(ids == 0, 1e6, -3e6)[:, None, None]
    x = x.astype("f4")
    parameters = domains.Parameters(np.zeros((2, 3), "f4"), np.ones((2, 3), "f4"))
    y, batch = domains.batch_renormalization(
        x, tf.constant(ids), parameters, batch_statistics="domain", **OPTIONS
    )
    for k in (0, 1):
        mean, variance, _ = reference.moments(x[ids == k])
        np.testing.assert_allclose(batch.variance[k], variance, rtol=1e-5)
        desired = (x[ids == k] - mean) / np.sqrt(variance + EPSILON)
        np.testing.assert_allclose(y.numpy()[ids == k], desired, atol=1e-5)
        exact = batch.mean.numpy()[k].astype("f8") + batch.mean_remainder.numpy()[k]
        np.testing.assert_allclose(exact, mean, atol=1e-5)
