"""Layers with domains on two replicas; `domain_batch_normalization_test.py` runs this."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers
from keras_renorm.ops import reference

EPSILON, MOMENTUM, SIZES = 1e-3, 0.7, (5, 3)
LIMITS = {"r_max": 1.5, "d_max": 0.5}
# Domain 0 is on the first replica only, 1 on both, 2 on the second, 3 on none.
IDS = np.array([0, 1, 0, 1, 1, 1, 2, 2])


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def split(strategy, array):
    parts = np.split(array, np.cumsum(SIZES)[:-1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def joined(strategy, value):
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])


def assert_close(actual, desired):
    """Within 1e-5 of the greatest value, or of 1: of two examples the gradients cancel."""
    scale = max(1.0, np.abs(desired).max())
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5 * scale)


def make(strategy, **options):
    options = LIMITS | {"momentum": MOMENTUM, "epsilon": EPSILON} | options
    with strategy.scope():
        layer = layers.DomainBatchRenormalization(4, **options)
        layer.build((None, 3))
    return layer


def train(layer, x, domain, dy):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, domain=domain, training=True)
    return y, tape.gradient(y, x, output_gradients=dy)


@pytest.mark.parametrize("graph", [False, True])
def test_synchronized_steps_equal_the_whole_batch(strategy, rng, graph):
    layer = make(strategy, synchronized=True)
    mean, sigma = np.zeros((4, 3)), np.full((4, 3), np.sqrt(1 + EPSILON))

    def run(*parts):
        return strategy.run(lambda *own: train(layer, *own), args=parts)

    run = tf.function(run) if graph else run
    for _ in range(3):
        x, dy = (rng.normal(0.5, 1.5, (8, 3)).astype("f4") for _ in range(2))
        y, dx = run(split(strategy, x), split(strategy, IDS), split(strategy, dy))
        for k in range(3):
            own, moving = k == IDS, (mean[k], sigma[k])
            limits = LIMITS | {"alpha": 1 - MOMENTUM, "epsilon": EPSILON}
            step = reference.forward(x[own], 1.0, 0.0, *moving, **limits)
            assert_close(joined(strategy, y)[own], step.y)
            assert_close(joined(strategy, dx)[own], reference.backward(dy[own], x[own], 1, step).dx)
            mean[k], sigma[k] = step.mu, step.sigma
        for variable, desired in ((layer.moving_mean, mean), (layer.moving_variance, sigma**2)):
            values = [value.numpy() for value in variable.value.values]
            np.testing.assert_array_equal(*values)
            offset = EPSILON if variable is layer.moving_variance else 0
            assert_close(values[0] + offset, desired)


def test_one_id_for_each_replica_when_synchronized(strategy, rng):
    layer = make(strategy, synchronized=True)
    x, dy = (rng.normal(0.5, 1.5, (8, 3)).astype("f4") for _ in range(2))

    def run(x, dy):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return train(layer, x, keras.ops.convert_to_tensor(2 * replica), dy)

    y, _ = strategy.run(run, args=(split(strategy, x), split(strategy, dy)))
    for k, part in ((0, x[:5]), (2, x[5:])):
        own = 0.0, np.sqrt(1 + EPSILON)
        limits = LIMITS | {"alpha": 1 - MOMENTUM, "epsilon": EPSILON}
        step = reference.forward(part, 1.0, 0.0, *own, **limits)
        assert_close(joined(strategy, y)[:5] if k == 0 else joined(strategy, y)[5:], step.y)
        assert_close(layer.moving_mean.numpy()[k], step.mu)
    np.testing.assert_array_equal(layer.moving_mean.numpy()[[1, 3]], 0)


def test_shared_batch_statistics_and_rows_when_synchronized(strategy, rng):
    with pytest.warns(UserWarning, match="breaks a rule"):
        layer = make(strategy, synchronized=True, batch_statistics="shared", r_max=1.0, d_max=0.0)
    x = rng.normal(0.5, 1.5, (8, 3)).astype("f4")
    y, _ = strategy.run(
        lambda *own: train(layer, *own), args=(*(split(strategy, a) for a in (x, IDS, x)),)
    )
    mean, variance, _ = reference.moments(x)
    assert_close(joined(strategy, y), (x - mean) / np.sqrt(variance + EPSILON))
    for k in range(3):
        own, _, _ = reference.moments(x[k == IDS])
        assert_close(layer.moving_mean.numpy()[k], (1 - MOMENTUM) * own)


def test_without_synchronization_each_replica_keeps_its_own_and_the_mean_is_read(strategy, rng):
    layer = make(strategy)
    x = rng.normal(0.5, 1.5, (8, 3)).astype("f4")
    parts = split(strategy, x), split(strategy, IDS)
    strategy.run(lambda x, ids: layer(x, domain=ids, training=True), args=parts)
    desired = np.zeros((2, 4, 3))
    for replica, rows in enumerate((slice(0, 5), slice(5, 8))):
        for k in np.unique(IDS[rows]):
            own = x[rows][IDS[rows] == k]
            desired[replica, k] = (1 - MOMENTUM) * own.mean(0, dtype="f8")
    assert_close(layer.moving_mean.numpy(), desired.mean(0))
    y = strategy.run(lambda x, ids: layer(x, domain=ids), args=parts)
    sigma = np.sqrt(layer.moving_variance.numpy() + EPSILON)
    assert_close(joined(strategy, y), (x - desired.mean(0)[IDS]) / sigma[IDS])
