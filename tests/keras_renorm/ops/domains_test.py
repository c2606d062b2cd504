import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import ops
from keras_renorm.ops import domains, reference

EPSILON = 1e-12
OPTIONS = {"num_domains": 2, "epsilon": EPSILON, "axis": -1}


def test_inference_by_hand():
    vectors = [[1.0], [10.0]], [[4.0], [25.0]], [2.0], [[0.0], [1.0]]
    vectors = [np.array(vector) for vector in vectors]
    x, ids = np.array([[5.0], [20.0], [1.0]]), tf.constant([0, 1, 1])
    y = domains.inference_step(x, *vectors, domain=ids, **OPTIONS)
    np.testing.assert_allclose(y, [[4.0], [5.0], [-2.6]], rtol=1e-6)
    y = domains.inference_step(x[:2], *vectors, domain=1, **OPTIONS)
    np.testing.assert_allclose(y, [[-1.0], [5.0]], rtol=1e-6)
    y = domains.inference_step(x[:2], *vectors, domain=1, relu=True, **OPTIONS)
    np.testing.assert_allclose(y, [[0.0], [5.0]], rtol=1e-6)


@pytest.mark.parametrize("by_stddev", [False, True])
@pytest.mark.parametrize("rows", [(3,), ()], ids=["domain", "shared"])
def test_a_training_step_is_the_step_and_then_the_update(rng, rows, by_stddev):
    mean, variance = rng.normal(size=(*rows, 4)), rng.uniform(0.5, 2.0, (*rows, 4))
    x, ids = rng.normal(size=(5, 4)), tf.constant([0, 2, 2, 0, 2])
    options = OPTIONS | {"num_domains": 3, "batch_statistics": "domain"}
    limits = {"r_max": 3.0, "d_max": 5.0}
    average = {"momentum": 0.9, "by_stddev": by_stddev}
    trained = domains.train(x, mean, variance, domain=ids, **limits, **average, **options)
    desired = ops.update_moving(mean, variance, trained.moments(), epsilon=EPSILON, **average)
    moving = trained.moving()
    np.testing.assert_array_equal(moving.mean, desired.mean)
    np.testing.assert_array_equal(moving.variance, desired.variance)
    np.testing.assert_array_equal(moving.updated, [1, 0, 1] if rows else 1)


@pytest.mark.parametrize("ids", [[0, 1, 2], [0, 1, -1]])
@pytest.mark.parametrize("rows", [(2,), ()], ids=["domain", "shared"])
def test_ids_out_of_range_give_nan_and_update_nothing(rng, rows, ids):
    statistics = np.zeros((*rows, 4)), np.ones((*rows, 4))
    x, ids = rng.normal(size=(3, 4)), tf.constant(ids)
    options = OPTIONS | {"batch_statistics": "domain", "momentum": 0.0}
    trained = domains.train(x, *statistics, domain=ids, **options)
    moving = trained.moving()
    inference = domains.inference_step(x, *statistics, domain=ids, **OPTIONS)
    for outputs in (trained.y, inference):
        np.testing.assert_array_equal(np.isnan(outputs).all(1), [False, False, True])
        assert np.isfinite(outputs[:2]).all()
    desired = x[:2] if rows else x[:2].mean(0)
    np.testing.assert_allclose(moving.mean, desired)


def test_moments_that_were_used_are_pooled_by_positions():
    zeros, ones = np.zeros(1), np.ones(1)
    x, ids = np.array([[0.0], [2.0], [4.0], [10.0]]), tf.constant([0, 0, 0, 1])
    options = OPTIONS | {"batch_statistics": "domain", "momentum": 0.9}
    batch = domains.train(x, zeros, ones, domain=ids, **options).moments()
    # Domain 0: mean 2, variance 8/3, three of the four positions. Domain 1: mean 10, variance 0.
    np.testing.assert_allclose(batch.mean, [4.0], rtol=1e-6)
    np.testing.assert_allclose(batch.variance, [2.0], rtol=1e-6)
    np.testing.assert_array_equal(batch.count, [4.0])


@pytest.mark.parametrize("batch_statistics", ["shared", "domain"])
def test_rows_hold_the_moments_of_their_domain(batch_statistics):
    zeros, ones = np.zeros((3, 1)), np.ones((3, 1))
    x, ids = np.array([[0.0], [2.0], [4.0], [10.0]]), tf.constant([0, 0, 0, 2])
    options = OPTIONS | {"num_domains": 3, "batch_statistics": batch_statistics, "momentum": 0.9}
    batch = domains.train(x, zeros, ones, domain=ids, **options).moments()
    np.testing.assert_allclose(batch.mean, [[2.0], [0.0], [10.0]])
    np.testing.assert_allclose(batch.variance, [[8 / 3], [0.0], [0.0]], rtol=1e-6)
    np.testing.assert_array_equal(batch.count, [[3.0], [0.0], [1.0]])


def test_large_means(rng):
    ids = np.arange(64) % 2
    x = rng.normal(size=(64, 50, 3)) + np.where(ids == 0, 1e6, -3e6)[:, None, None]
    x = x.astype("f4")
    statistics = np.zeros((2, 3), "f4"), np.ones((2, 3), "f4")
    options = OPTIONS | {"batch_statistics": "domain", "momentum": 0.9}
    trained = domains.train(x, *statistics, domain=tf.constant(ids), **options)
    y, batch = trained.y, trained.moments()
    for k in (0, 1):
        mean, variance, _ = reference.moments(x[ids == k])
        np.testing.assert_allclose(batch.variance[k], variance, rtol=1e-5)
        desired = (x[ids == k] - mean) / np.sqrt(variance + EPSILON)
        np.testing.assert_allclose(y.numpy()[ids == k], desired, atol=1e-5)
        exact = batch.mean.numpy()[k].astype("f8") + batch.mean_remainder.numpy()[k]
        np.testing.assert_allclose(exact, mean, atol=1e-5)
