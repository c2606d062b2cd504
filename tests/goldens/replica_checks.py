"""The cases of layers on two replicas, in a process of its own: together they are as one.

The parts are uneven. What two replicas compute must be what is written for the whole batch.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from goldens import layer_cases, running, write
from keras_renorm import layers, ops

ROWS = 4, 2  # rows of the two replicas
CASES = [f"layers.{name}" for name, case in layer_cases.CASES.items() if case.replicas]


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def parts(strategy, array):
    """Each replica's rows."""
    cuts = tf.split(array, ROWS)
    return strategy.experimental_distribute_values_from_function(
        lambda context: cuts[context.replica_id_in_sync_group]
    )


def joined(strategy, value):
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])


def summed(strategy, value):
    return np.sum([part.numpy() for part in strategy.experimental_local_results(value)], axis=0)


@pytest.mark.parametrize("name", CASES)
def test_layer(strategy, name):
    case, (inputs, expected) = write.CASES[name], write.read(name)
    options = {"synchronized": True} if case.replicas == "synchronized" else {}
    with strategy.scope():
        layer = case.make(**options)
        for key, value in case.weights(inputs).items():
            getattr(layer, key).assign(value)

    def train(given):
        return {"y": layer(given["x"], **running.others(case, given, training=True))}

    step = running.differentiated(train, ["x"], layer)

    @tf.function
    def run(given):
        return strategy.run(step, args=(given,))

    for number in range(2):
        names = [key for key in ("x", "dy", "mask") if f"{key}{number}" in inputs]
        arrays = {key: inputs[f"{key}{number}"] for key in names}
        given = running.arguments_of(case, arrays, "float32")
        results = run({key: parts(strategy, tensor) for key, tensor in given.items()})
        for key in results:
            join = joined if key in ("y", "dx") else summed
            value = join(strategy, results[key])
            if value.ndim == len(case.shape):
                value = np.moveaxis(value, case.axis, -1)
            running.assert_close(value, expected[f"{key}{number}"], 2e-6, f"{key}{number}")
    for weight in layer.non_trainable_variables:
        if weight.name in expected:
            value = keras.ops.convert_to_numpy(weight)
            running.assert_close(value, expected[weight.name], 2e-6, weight.name)


def test_unsynchronized_statistics_are_the_mean_of_the_replicas(strategy):
    """Of halves of one batch: the mean of what each would have alone."""
    name = "layers.BatchNormalization"
    case, (inputs, _) = write.CASES[name], write.read(name)
    with strategy.scope():
        layer = case.make()
    x = tf.constant(inputs["x0"], "float32")
    strategy.run(lambda rows: layer(rows, training=True), args=(parts(strategy, x),))
    found = []
    for rows in tf.split(x, ROWS):
        alone = case.make()
        alone(rows, training=True)
        found.append([np.array(w) for w in alone.get_weights()[2:]])
    for value, expected in zip(layer.get_weights()[2:], np.mean(found, axis=0), strict=True):
        running.assert_close(value, expected, 2e-6)


@pytest.fixture(scope="module")
def shuffled(strategy):
    """What goes into `CrossReplicaShuffle`, what it makes, the order, and what comes back."""
    x = tf.reshape(tf.range(12.0), (6, 2))
    with strategy.scope():
        shuffle, unshuffle = layers.CrossReplicaShuffle(seed=1), layers.CrossReplicaUnshuffle()

    @tf.function
    def run(rows):
        def one(rows):
            mixed, order = shuffle(rows, training=True)
            return mixed, order, unshuffle(mixed, order)

        return strategy.run(one, args=(rows,))

    mixed, order, back = run(parts(strategy, x))
    order = strategy.experimental_local_results(order)[0].numpy()
    return x.numpy(), joined(strategy, mixed), order, joined(strategy, back)


def test_shuffled_rows_come_back(shuffled):
    x, mixed, order, back = shuffled
    np.testing.assert_array_equal(back, x)
    assert np.any(mixed != x)
    np.testing.assert_array_equal(np.sort(order[:, 1]), np.arange(6))
    holders = [row for holder in range(2) for row in x[order[order[:, 0] == holder, 1]]]
    np.testing.assert_array_equal(mixed, holders)


def test_functions(strategy, shuffled):
    """`shuffle_order`, `shuffle`, `unshuffle` and `Replicas`, with the layer's seed."""
    x, mixed, order, _ = shuffled

    @tf.function
    def run(rows):
        def one(rows):
            replicas = ops.Replicas.running()
            found = ops.shuffle_order(replicas, tf.shape(rows)[0], tf.constant([1, 0], "int64"))
            there = ops.shuffle(replicas, rows, found)
            (total,) = replicas.add(tf.reduce_sum(rows, axis=0))
            return found, there, ops.unshuffle(replicas, there, found), total, replicas.index

        return strategy.run(one, args=(rows,))

    found, there, back, total, index = run(parts(strategy, tf.constant(x)))
    for own in strategy.experimental_local_results(found):
        np.testing.assert_array_equal(own, order)
    np.testing.assert_array_equal(joined(strategy, there), mixed)
    np.testing.assert_array_equal(joined(strategy, back), x)
    for own in strategy.experimental_local_results(total):
        np.testing.assert_array_equal(own, x.sum(0))
    assert [int(own) for own in strategy.experimental_local_results(index)] == [0, 1]
