"""Parts of a minibatch; strategies_test.py resumes a run whose replicas have own statistics."""

import types

import numpy as np
import pytest
import tensorflow as tf

from zoo.training.distribution.replicas import OwnStatistics, own_rows


def parts(monkeypatch, replicas, *tensors):
    """What each replica gets."""
    found = []
    for replica in range(replicas):
        context = types.SimpleNamespace(
            num_replicas_in_sync=replicas, replica_id_in_sync_group=tf.constant(replica)
        )
        with monkeypatch.context() as patch:
            patch.setattr(tf.distribute, "get_replica_context", lambda context=context: context)
            found.append(own_rows(*tensors))
    return found


@pytest.mark.parametrize(
    ("rows", "replicas", "sizes"),
    [(8, 1, [8]), (8, 2, [4, 4]), (8, 3, [2, 3, 3]), (7, 2, [3, 4]), (2, 3, [0, 1, 1])],
)
def test_every_row_is_taken_once_and_in_order(monkeypatch, rows, replicas, sizes):
    x, y = tf.range(rows * 3), tf.range(rows)
    found = parts(monkeypatch, replicas, tf.reshape(x, [rows, 3]), y)
    assert [len(labels) for _, labels in found] == sizes
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), y)
    np.testing.assert_array_equal(np.concatenate([images for images, _ in found]).ravel(), x)


def test_parts_have_known_shapes_where_the_whole_has(monkeypatch):
    @tf.function(input_signature=[tf.TensorSpec([7, 2])])
    def known(x):
        ((part,),) = parts(monkeypatch, 2, x)[1:]
        assert part.shape == (4, 2)
        return part

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def unknown(x):
        ((part,),) = parts(monkeypatch, 2, x)[1:]
        assert part.shape == (None, 2)
        return part

    for function in (known, unknown):
        np.testing.assert_array_equal(function(tf.reshape(tf.range(14.0), [7, 2]))[0], [6, 7])


def test_one_replica_has_nothing_of_its_own():
    import keras

    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    statistics = OwnStatistics(tf.distribute.get_strategy(), layer.variables)
    assert statistics.tables == []
    assert len(statistics.shared) == 4
    statistics.gather()
    statistics.scatter()
