import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.training.divergence import all_finite, first_not_finite


@pytest.fixture
def model():
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name="first")(inputs)
    x = keras.layers.Dense(4, name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="third")(x))


@pytest.mark.parametrize("name", ["first", "second", "third"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_layer_is_named(model, name, value):
    assert first_not_finite(model, tf.ones([5, 3])) is None
    assert all_finite(model.trainable_variables)
    layer = model.get_layer(name)
    layer.bias.assign([value, *([0.0] * (layer.units - 1))])
    assert first_not_finite(model, tf.ones([5, 3])) == name
    assert not all_finite(model.trainable_variables)


def test_outputs_that_are_no_floating_point_numbers_are_passed_over():
    inputs = keras.Input((3,))
    label = keras.layers.Lambda(lambda x: tf.argmax(x, axis=-1), name="label")(inputs)
    outputs = keras.layers.Dense(2, name="last")(inputs)
    model = keras.Model(inputs, [outputs, label])
    assert first_not_finite(model, tf.ones([5, 3])) is None
    model.get_layer("last").bias.assign([np.nan, 0.0])
    assert first_not_finite(model, tf.ones([5, 3])) == "last"
