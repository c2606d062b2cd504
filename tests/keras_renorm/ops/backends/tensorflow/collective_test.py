"""One process, since no collective here fails. Those that fail are in ../replicas_checks.py."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("replicas of tf.distribute", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.backends.tensorflow.backend import BACKEND


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def run(strategy, function):
    """What `function` of the replicas returns on each."""
    result = tf.function(lambda: strategy.run(lambda: function(BACKEND.replicas())))()
    return [value.numpy() for value in strategy.experimental_local_results(result)]


def test_there_are_none_outside_and_on_one_device(strategy):
    assert BACKEND.replicas() is None
    with strategy.scope():
        assert BACKEND.replicas() is None
    assert tf.distribute.OneDeviceStrategy("CPU:0").run(BACKEND.replicas) is None


def test_size_and_index(strategy):
    assert run(strategy, lambda replicas: replicas.index) == [0, 1]
    assert run(strategy, lambda replicas: tf.constant(replicas.size)) == [2, 2]


@pytest.mark.parametrize(("operation", "desired"), [("SUM", 5.0), ("MEAN", 2.5)])
def test_all_reduce(strategy, operation, desired):
    def reduce(replicas):
        return replicas.all_reduce(operation, tf.cast(2 + replicas.index, tf.float32))

    assert run(strategy, reduce) == [desired, desired]


def test_random_numbers_are_the_same_on_all(strategy):
    one, other = run(strategy, lambda replicas: replicas.uniform(5, tf.constant([3, 4])))
    np.testing.assert_array_equal(one, other)
    (again, _) = run(strategy, lambda replicas: replicas.uniform(5, tf.constant([3, 5])))
    assert len(set(one)) == 5
    assert not np.array_equal(one, again)
