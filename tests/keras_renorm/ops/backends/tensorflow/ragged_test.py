import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.ops.backends.tensorflow.backend import BACKEND
from keras_renorm.ops.backends.tensorflow.ragged import RaggedRows

ROWS = tf.RaggedTensor.from_row_lengths(tf.reshape(tf.range(12.0), (6, 2)), [2, 0, 3, 1])
NESTED = tf.RaggedTensor.from_row_lengths(ROWS, [3, 0, 1])


def test_a_dense_tensor_has_no_rows():
    assert BACKEND.ragged(tf.zeros((2, 3))) is None
    assert BACKEND.ragged(np.zeros((2, 3))) is None


@pytest.mark.parametrize(
    ("rows", "ids"), [(ROWS, [0, 0, 2, 2, 2, 3]), (NESTED, [0, 0, 0, 0, 0, 2])]
)
def test_values_masks_and_what_examples_have(rows, ids):
    found = BACKEND.ragged(rows)
    np.testing.assert_array_equal(found.values, np.arange(12.0).reshape(6, 2))
    np.testing.assert_array_equal(found.by_value(tf.range(4)), ids)
    np.testing.assert_array_equal(found.values_of(rows.with_flat_values(tf.range(6))), range(6))
    assert found.restored(found.values + 1).to_list() == (rows + 1.0).to_list()


def test_a_dense_mask_is_refused():
    with pytest.raises(
        TypeError, match=r"received a EagerTensor of shape \(4, 3\). Write `tf.Ragg"
    ):
        RaggedRows(ROWS).values_of(tf.ones((4, 3), "bool"))
