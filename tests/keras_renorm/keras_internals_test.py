import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.keras_internals import _Reader, attached_mask, own_weight_count

# The mask inside compiled functions, and under JAX: layers/domain_backend_checks.py.


class Both(keras.layers.Layer):
    """Of two tensors, to which Keras hands no mask."""

    supports_masking = True

    def call(self, x, other, mask=None):
        assert mask is None
        self.found = attached_mask(x), attached_mask(other)
        return x


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_mask_of_the_tensor_and_none_of_another(dtype):
    x = np.array([[[1.0], [0.0], [2.0]]], dtype)
    masked = keras.layers.Masking(dtype=dtype)(x)
    layer = Both(dtype=dtype)
    layer(masked, keras.ops.ones((1, 3)))
    mask, none = layer.found
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(mask), [[True, False, True]])
    assert none is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_keras_tells_a_reader_the_same(dtype):
    """Which stands for the attribute under JAX."""
    masked = keras.layers.Masking(dtype=dtype)(np.array([[[1.0], [0.0], [2.0]]], dtype))
    for x in (masked, keras.ops.ones((1, 3))):
        reader = _Reader()
        reader(x)
        (found,) = reader.found
        assert found is attached_mask(x)


def test_own_weights_are_those_of_no_layer_inside():
    layer = layers.BatchNormalization(activation=keras.layers.PReLU())
    layer.build((None, 3))
    assert len(layer.weights) == 5
    assert own_weight_count(layer) == 4
