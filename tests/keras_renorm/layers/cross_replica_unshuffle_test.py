import keras
import numpy as np
import pytest

from keras_renorm import layers

# The way there and back: cross_replica_shuffle_test.py.


def test_what_is_no_order_is_named():
    x = np.zeros((4, 3), "f4")
    for rows, order in ((x, x), (x, None), (keras.Input((3,)), keras.Input(()))):
        with pytest.raises(ValueError, match=r"must be the second output of CrossReplicaShuffle"):
            layers.CrossReplicaUnshuffle()(rows, order)


def test_an_order_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"`order` must be the second output .*received no tensor"):
        layers.CrossReplicaUnshuffle()(np.zeros((4, 3)))


def test_shapes_of_the_outputs():
    unshuffle = layers.CrossReplicaUnshuffle()
    assert unshuffle.compute_output_shape((None, 3)) == (None, 3)
    assert unshuffle.compute_output_shape((None, 3), (None, 2)) == (None, 3)
