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
