import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("gradients by tapes", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.maths.masks import select, without_masked_gradients

X = np.float32([[1.0, np.nan], [np.inf, -2.0]])
MASK = np.array([[True, False], [False, True]])


def test_what_is_selected_is_kept_and_the_rest_is_0():
    np.testing.assert_array_equal(select(MASK, X), [[1, 0], [0, -2]])
    np.testing.assert_array_equal(select(MASK[:, :1], X), [X[0], [0, 0]])
    assert select(None, X) is X


@pytest.mark.parametrize("mask", [MASK, np.array([[True], [False]])])
def test_nothing_of_masked_positions_reaches_a_gradient(mask):
    """Neither that of `x` nor of what `output` is made with; the output is as without a mask."""
    x, scale = tf.constant(np.where(mask, 2.0, X), tf.float32), tf.constant([3.0, 4.0])
    with tf.GradientTape() as tape:
        tape.watch((x, scale))
        y = without_masked_gradients(mask, lambda x: scale * x**2, x)
    np.testing.assert_array_equal(y, scale * x**2)
    dx, dscale = tape.gradient(y, (x, scale))
    mask = np.broadcast_to(mask, x.shape)
    np.testing.assert_array_equal(dx, np.where(mask, 4.0 * scale, 0))
    np.testing.assert_array_equal(dscale, 4.0 * mask.sum(0))


def test_without_a_mask_the_output_is_computed_once():
    calls = []
    x = tf.constant(X)
    assert without_masked_gradients(None, lambda x: calls.append(1) or x, x) is x
    assert len(calls) == 1
