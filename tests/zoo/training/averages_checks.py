"""Averages on two replicas, in a process of its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.layers import BatchRenormalization
from zoo.training.averages import Averages
from zoo.training.step import Options, make_train_step

DECAY = 0.5


PLAIN = Options()


def trained(strategy, batches, options=PLAIN, scaled=False, synchronized=True):
    """The model, its averages, and what every step told."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        norm = BatchRenormalization(r_max=3.0, d_max=5.0, synchronized=synchronized)
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(4), norm, keras.layers.Dense(2)]
        )
        averages = Averages(model, DECAY)
        optimizer = keras.optimizers.SGD(0.2, 0.9)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
        optimizer.build(model.trainable_variables)
        step = make_train_step(model, optimizer, options, averages)
    # Outside of the scope, like the steps of a training.
    return model, averages, [step(x, labels) for x, labels in batches]


@pytest.fixture
def batches(rng):
    return [
        (tf.constant(rng.normal(2, 3, (10, 3)), tf.float32), tf.constant(rng.integers(0, 2, 10)))
        for _ in range(4)
    ]


@pytest.fixture(scope="module")
def two():
    # All share one: the collectives of a second strategy would have the keys of the first.
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


# Each two of the three meet in each way.
@pytest.mark.parametrize(
    ("scaled", "clip_norm", "parts"),
    [(False, 0.0, 1), (True, 0.05, 1), (True, 0.0, 5), (False, 0.05, 5)],
)
def test_two_replicas_do_the_step_of_one(two, batches, scaled, clip_norm, parts):
    # Synchronized moments of a part are those of both replicas' parts.
    options = Options(weight_decay=0.01, label_smoothing=0.1, clip_norm=clip_norm, parts=parts)
    if parts > 1:
        order = np.array([5 * replica + part for part in range(5) for replica in range(2)])
        ordered = [(tf.gather(x, order), tf.gather(y, order)) for x, y in batches]
    else:
        ordered = batches
    one = trained(tf.distribute.get_strategy(), ordered, options, scaled)
    both = trained(two, batches, options, scaled)
    for alone, shared in zip(one[:2], both[:2], strict=True):
        alone, shared = getattr(alone, "model", alone), getattr(shared, "model", shared)
        for a, b in zip(alone.get_weights(), shared.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(np.array(one[2]), np.array(both[2]), rtol=1e-4, atol=1e-6)


def test_own_statistics_are_averaged_by_each_replica(two, batches):
    with two.scope():
        norm = BatchRenormalization(r_max=3.0, d_max=5.0)
        model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dense(2)])
        averages = Averages(model, DECAY)
        optimizer = keras.optimizers.SGD(0.0)
        optimizer.build(model.trainable_variables)
        step = make_train_step(model, optimizer, averages=averages)
    averaged = averages.model.layers[0].moving_mean.value
    expected = [np.zeros(3), np.zeros(3)]
    for t, (x, labels) in enumerate(batches, start=1):
        step(x, labels)
        own = two.experimental_local_results(norm.moving_mean.value)
        rest = 1 - min(DECAY, (1 + t) / (10 + t))
        for i in range(2):
            expected[i] += rest * (own[i].numpy() - expected[i])
    found = two.experimental_local_results(averaged)
    for i in range(2):
        np.testing.assert_allclose(found[i].numpy(), expected[i], rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected[0], expected[1])


def test_two_replicas_compiled_by_xla(two, batches):
    """With moments of their own: `jit` does not go with those of all replicas."""
    plain, compiled = (
        trained(two, batches, Options(parts=2, jit=jit), synchronized=False)
        for jit in (False, True)
    )
    for a, b in zip(plain[0].get_weights(), compiled[0].get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.array(compiled[2]), np.array(plain[2]), rtol=1e-3, atol=1e-5)


def test_a_replica_that_overflows_stops_both(two, batches):
    (x, labels), *_ = batches
    bad = tf.tensor_scatter_nd_update(x, [[9, 0]], [3e38])  # in the second replica's rows
    with two.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        optimizer.build(model.trainable_variables)
        before = model.get_weights()
        step = make_train_step(model, optimizer)
        step(bad, labels)
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
