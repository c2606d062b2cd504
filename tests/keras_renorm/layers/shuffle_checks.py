"""Shuffling among the replicas of logical CPUs; `cross_replica_shuffle_test.py` runs this."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers

REPLICAS = len(tf.config.list_logical_devices("CPU"))
SPLITS = {2: [[4, 4], [5, 3]], 3: [[3, 3, 2], [8, 0, 0]]}[REPLICAS]


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


def split(strategy, array, sizes):
    parts = np.split(array, np.cumsum(sizes)[:-1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def joined(strategy, value):
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])


@pytest.fixture
def shuffle(strategy):
    with strategy.scope():
        return layers.CrossReplicaShuffle(seed=2**40 + 5)


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_rows_move_together_and_come_back(strategy, rng, shuffle, sizes):
    x, ids = rng.normal(size=(8, 2)).astype("f4"), np.arange(8)

    @tf.function
    def run(*parts):
        def replica(x, ids):
            moved, order = shuffle({"x": x, "ids": ids, "even": ids % 2 == 0}, training=True)
            return moved, layers.CrossReplicaUnshuffle()(moved, order)

        return strategy.run(replica, args=parts)

    seen = []
    for _ in range(3):
        moved, back = run(split(strategy, x, sizes), split(strategy, ids, sizes))
        places = joined(strategy, moved["ids"])
        assert sorted(places) == list(ids)
        np.testing.assert_array_equal(joined(strategy, moved["x"]), x[places])
        np.testing.assert_array_equal(joined(strategy, moved["even"]), places % 2 == 0)
        np.testing.assert_array_equal(joined(strategy, back["x"]), x)
        np.testing.assert_array_equal(joined(strategy, back["ids"]), ids)
        parts = strategy.experimental_local_results(moved["ids"])
        assert [len(part) for part in parts] == sizes
        seen.append(tuple(places))
    assert len(set(seen)) == 3


def test_orders_follow_from_the_seed_and_go_on_after_saving(strategy, tmp_path):
    ids = split(strategy, np.arange(8), SPLITS[0])

    def orders(layer, count):
        return [
            tuple(joined(strategy, strategy.run(lambda x: layer(x, training=True)[0], (ids,))))
            for _ in range(count)
        ]

    def model_with(seed):
        with strategy.scope():
            inputs = keras.Input((), dtype="int64")
            rows, order = layers.CrossReplicaShuffle(seed=seed, name="there")(inputs)
            return keras.Model(inputs, layers.CrossReplicaUnshuffle()(rows, order))

    first = model_with(7)
    drawn = orders(first.get_layer("there"), 2)
    first.save(tmp_path / "model.keras")
    drawn += orders(first.get_layer("there"), 2)
    assert orders(model_with(7).get_layer("there"), 4) == drawn
    assert orders(model_with(8).get_layer("there"), 4) != drawn
    with strategy.scope():
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert orders(loaded.get_layer("there"), 2) == drawn[2:]


def test_a_layer_made_outside_the_scope_still_gives_one_order(strategy):
    layer = layers.CrossReplicaShuffle()
    ids = split(strategy, np.arange(8), SPLITS[0])
    for _ in range(3):
        moved = strategy.run(lambda x: layer(x, training=True)[0], args=(ids,))
        assert sorted(joined(strategy, moved)) == list(range(8))


def test_inference_shuffles_nothing(strategy, shuffle):
    ids = split(strategy, np.arange(8), SPLITS[0])

    def replica(x):
        moved, order = shuffle(x, training=False)
        return moved, layers.CrossReplicaUnshuffle()(moved, order)

    for value in strategy.run(replica, args=(ids,)):
        np.testing.assert_array_equal(joined(strategy, value), np.arange(8))


def test_a_training_without_a_value_is_refused(strategy, shuffle):
    ids = split(strategy, np.arange(8), SPLITS[0])

    @tf.function
    def run(training):
        return strategy.run(lambda x: shuffle(x, training=training)[0], args=(ids,))

    with pytest.raises(ValueError, match="takes True or False as `training` among several"):
        run(tf.constant(True))


def test_a_head_between_them_gets_the_gradients_of_the_whole_batch(strategy, rng, shuffle):
    # A shuffle must change nothing for a head that sees each example alone.
    x, target = (rng.normal(size=(8, 3)).astype("f4") for _ in range(2))
    with strategy.scope():
        head = keras.layers.Dense(3, activation="tanh")
        head.build((None, 3))

    def step(x, target, shuffled):
        with tf.GradientTape() as tape:
            tape.watch(x)
            rows, order = shuffle(x, training=shuffled)
            y = layers.CrossReplicaUnshuffle()(head(rows), order)
            loss = tf.reduce_sum(tf.square(y - target))
        gradients = tape.gradient(loss, [x, head.kernel])
        return y, gradients[0], tf.distribute.get_replica_context().all_reduce("SUM", gradients[1])

    @tf.function
    def run(shuffled):
        parts = (split(strategy, part, SPLITS[0]) for part in (x, target))
        return strategy.run(step, args=(*parts, shuffled))

    y, dx, kernel = run(True)
    desired = step_on_one_device(head, x, target)
    np.testing.assert_allclose(joined(strategy, y), desired[0], atol=1e-6)
    np.testing.assert_allclose(joined(strategy, dx), desired[1], atol=1e-6)
    for part in strategy.experimental_local_results(kernel):
        np.testing.assert_allclose(part, desired[2], atol=1e-5)


def step_on_one_device(head, x, target):
    kernel, bias = (w.numpy().astype("f8") for w in (head.kernel, head.bias))
    y = np.tanh(x @ kernel + bias)
    slope = 2 * (y - target) * (1 - y**2)
    return y, slope @ kernel.T, x.T @ slope


def test_two_collectives_there_one_back_and_one_for_each_gradient(strategy, shuffle):
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            rows, order = shuffle(x, training=True)
            loss = tf.reduce_sum(tf.square(layers.CrossReplicaUnshuffle()(rows, order)))
        return tape.gradient(loss, x)

    run = tf.function(lambda x: strategy.run(step, args=(x,)))
    parts = split(strategy, np.ones((8, 2), "f4"), SPLITS[0])
    operations = run.get_concrete_function(parts).graph.get_operations()
    found = [op.outputs[0].dtype.name for op in operations if "CollectiveReduce" in op.type]
    assert sorted(found) == ["float32"] * (4 * REPLICAS) + ["int64"] * REPLICAS
