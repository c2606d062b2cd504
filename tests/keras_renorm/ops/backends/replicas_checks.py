"""Ops over the replicas of a MirroredStrategy of logical CPUs; `replicas_test.py` runs this."""

import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import ops
from keras_renorm.ops import reference

REPLICAS = len(tf.config.list_logical_devices("CPU"))
SPLITS = {2: [[5, 3], [7, 1], [8, 0], [0, 8]], 3: [[5, 3, 0], [0, 0, 8], [2, 5, 1]]}[REPLICAS]


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


def split(strategy, array, sizes):
    parts = np.split(array, np.cumsum(sizes)[:-1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def run(strategy, function, *values):
    """What `function` returns on each replica, run in a graph."""
    result = tf.function(lambda *v: strategy.run(function, args=v))(*values)
    per_output = [strategy.experimental_local_results(output) for output in result]
    return list(zip(*per_output, strict=True))


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("sizes", SPLITS)
@pytest.mark.parametrize("masked", [False, True])
def test_merged_moments_equal_float64(strategy, rng, sizes, masked, offset):
    x = (rng.normal(size=(8, 500, 3)) + offset).astype("f4")
    mask = rng.random((8, 500, 1)) > 0.3
    mask[:5] &= not masked or rng.random((5, 1, 1)) > 0.5

    def merged(x, mask):
        local = ops.moments(x, mask=mask if masked else None)
        return tuple(ops.Replicas.running().merge(local))

    results = run(strategy, merged, split(strategy, x, sizes), split(strategy, mask, sizes))
    mean, variance, count = reference.moments(x, mask if masked else None)
    for result in results:
        actual = ops.Moments(*(np.asarray(value, np.float64) for value in result))
        np.testing.assert_allclose(actual.variance, variance, rtol=1e-6 if offset == 0 else 1e-5)
        np.testing.assert_allclose(actual.mean + actual.mean_remainder, mean, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(actual.count, count)
        for mine, first in zip(result, results[0], strict=True):
            assert mine.numpy().tobytes() == first.numpy().tobytes()


def test_merged_moments_of_float64_keep_twice_its_digits(strategy, rng):
    x = rng.normal(size=(8, 500, 3)) + 1e6

    def merged(x):
        return tuple(ops.Replicas.running().merge(ops.moments(x)))

    mean, variance, _ = reference.moments(x - 1e6)  # without a rounding
    for result in run(strategy, merged, split(strategy, x, SPLITS[0])):
        actual = ops.Moments(*result)
        np.testing.assert_allclose(actual.variance, variance, rtol=1e-14)
        near = (actual.mean - 1e6) + actual.mean_remainder
        np.testing.assert_allclose(near, mean, rtol=0, atol=1e-15)


def test_no_positions_on_any_replica(strategy):
    nothing = split(strategy, np.zeros((0, 3), "f4"), [0] * REPLICAS)

    def merged(x):
        return tuple(ops.Replicas.running().merge(ops.moments(x)))

    for result in run(strategy, merged, nothing):
        np.testing.assert_array_equal(result, np.zeros((4, 3)))


def test_a_nan_on_one_replica_stays_in_its_channel(strategy, rng):
    x = rng.normal(size=(8, 3)).astype("f4")
    x[1, 2] = np.nan

    def merged(x):
        return tuple(ops.Replicas.running().merge(ops.moments(x)))

    for result in run(strategy, merged, split(strategy, x, SPLITS[0])):
        assert np.isnan(result[0][2])
        assert np.isnan(result[1][2])
        np.testing.assert_allclose(result[1][:2], x[:, :2].var(0), rtol=1e-6)


def test_sums_means_and_gathered_values(strategy, rng):
    values = rng.normal(size=(REPLICAS, 4)).astype("f4")

    def reduced(own):
        replicas, own = ops.Replicas.running(), own[0]
        return *replicas.add(own, 2 * own), *replicas.average(own, own), replicas.gather(own)

    for result in run(strategy, reduced, split(strategy, values, [1] * REPLICAS)):
        exact = values.astype("f8")
        for actual, desired in zip(
            result[:4], [exact.sum(0), 2 * exact.sum(0), exact.mean(0), exact.mean(0)], strict=True
        ):
            np.testing.assert_allclose(actual, desired, rtol=1e-6)
        np.testing.assert_array_equal(result[4], values)


def test_the_mean_of_equal_values_keeps_their_bits(strategy, rng):
    # In float32, (a + a + a) / 3 is not a for a third of all numbers.
    values = rng.normal(size=1000).astype("f4")
    for (mean,) in run(strategy, lambda: ops.Replicas.running().average(tf.constant(values))):
        np.testing.assert_array_equal(mean, values)


@pytest.mark.parametrize("sizes", SPLITS)
def test_shuffled_rows_are_a_permutation_and_come_back(strategy, rng, sizes):
    x = rng.normal(size=(8, 2, 3)).astype("f4")
    weight = rng.normal(size=x.shape).astype("f4")

    def there_and_back(x, weight):
        replicas = ops.Replicas.running()
        order = ops.shuffle_order(replicas, tf.shape(x)[0], tf.constant([7, 5], tf.int64))
        with tf.GradientTape() as tape:
            tape.watch(x)
            shuffled = ops.shuffle(replicas, x, order)
            loss = tf.reduce_sum(shuffled * weight)
        back = ops.unshuffle(replicas, shuffled, order)
        return shuffled, back, tape.gradient(loss, x), order

    parts = split(strategy, x, sizes), split(strategy, weight, sizes)
    results = run(strategy, there_and_back, *parts)
    shuffled, back, gradient = (
        np.concatenate(part) for part in list(zip(*results, strict=True))[:3]
    )
    holders, sources = results[0][3].numpy().T
    assert sorted(sources) == list(range(8))
    assert list(sources) != list(range(8))
    np.testing.assert_array_equal(holders, np.repeat(range(REPLICAS), sizes))
    np.testing.assert_array_equal(shuffled, x[sources])
    np.testing.assert_array_equal(back, x)
    desired = np.empty_like(x)
    desired[sources] = weight
    np.testing.assert_array_equal(gradient, desired)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16", "bfloat16", "float64"])
def test_what_is_shuffled_keeps_its_type(strategy, dtype):
    x = tf.cast(np.arange(REPLICAS * 2), dtype)

    def there_and_back(own):
        replicas = ops.Replicas.running()
        order = ops.shuffle_order(replicas, tf.shape(own)[0], tf.constant([1, 2], tf.int64))
        shuffled = ops.shuffle(replicas, own, order)
        return shuffled, ops.unshuffle(replicas, shuffled, order)

    results = run(strategy, there_and_back, split(strategy, x.numpy(), [2] * REPLICAS))
    shuffled, back = (tf.concat(part, 0) for part in zip(*results, strict=True))
    assert shuffled.dtype == back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(x))


def test_what_cannot_be_shuffled_is_named(strategy):
    def shuffle_words():
        replicas = ops.Replicas.running()
        order = ops.shuffle_order(replicas, 1, tf.constant([1, 2], tf.int64))
        return (ops.shuffle(replicas, tf.constant(["a"]), order),)

    with pytest.raises(TypeError, match="Only numbers and booleans can be shuffled"):
        run(strategy, shuffle_words)


def test_rows_that_do_not_fit_the_order_are_refused(strategy):
    def shuffle_too_many(x):
        replicas = ops.Replicas.running()
        order = ops.shuffle_order(replicas, 1, tf.constant([1, 2], tf.int64))
        return (ops.unshuffle(replicas, x, order),)

    x = split(strategy, np.zeros(2 * REPLICAS, "f4"), [2] * REPLICAS)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must match"):
        run(strategy, shuffle_too_many, x)


def test_there_are_no_replicas_outside_and_none_to_join_on_one_device(strategy):
    assert ops.Replicas.running() is None
    with strategy.scope():
        assert ops.Replicas.running() is None
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    assert one.run(ops.Replicas.running) is None


CONTROL_FLOW = {
    "tf.function": lambda f: tf.function(f, autograph=False)(),
    "jit_compile": lambda f: tf.function(f, autograph=False, jit_compile=True)(),
    "tf.cond": lambda f: tf.cond(tf.random.uniform(()) < 2, f, lambda: tf.zeros(3)),
}


@pytest.mark.parametrize("wrap", CONTROL_FLOW.values(), ids=CONTROL_FLOW)
def test_where_there_can_be_no_collective_the_message_says_so(strategy, wrap):
    def nested():
        return (wrap(lambda: ops.Replicas.running().average(tf.zeros(3))[0]),)

    with pytest.raises(RuntimeError, match="Call it from that function itself"):
        run(strategy, nested)
