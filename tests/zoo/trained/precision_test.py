import keras
import numpy as np
import pytest

from keras_renorm import keras_internals, layers
from zoo.trained.precision import in_float32


def nested(dtype):
    block = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, dtype=dtype),
            layers.BatchRenormalization(dtype=dtype),
        ]
    )
    inputs = keras.Input((6, 4))
    x = keras.layers.TimeDistributed(block, dtype=dtype)(inputs)
    outputs = keras.layers.Bidirectional(keras.layers.LSTM(2, dtype=dtype), dtype=dtype)(x)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float16"])
def test_all_layers_compute_in_float32_with_the_same_weights(rng, dtype):
    model = nested(dtype)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    found = in_float32(model)
    types = {layer.compute_dtype for layer in keras_internals.flattened(found)}
    assert types == {"float32"}
    for here, there in zip(found.get_weights(), model.get_weights(), strict=True):
        assert here.dtype == np.float32
        np.testing.assert_array_equal(here, np.float32(there))
    x = rng.normal(size=(3, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(found(x), np.float32(model(x)), atol=0.05)


def test_a_model_of_float32_stays_itself():
    model = nested("float32")
    assert in_float32(model) is model
