import keras
import numpy as np
import pytest

from keras_renorm import convert, layers

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


@pytest.mark.parametrize("to", [convert.to_keras, convert.fold])
def test_an_activation_has_a_name_of_its_own(to):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(activation="relu", name="bn"),
            keras.layers.Activation("tanh", name="bn_activation"),
            keras.layers.Activation("tanh", name="bn_activation_1"),
        ]
    )
    converted = to(model)
    assert [layer.name for layer in converted.layers] == [
        "bn",
        "bn_activation_2",
        "bn_activation",
        "bn_activation_1",
    ]
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-6)


def test_an_activation_has_a_name_of_its_own_among_operations():
    inputs = keras.Input((5,))
    hidden = layers.BatchNormalization(activation="relu", name="bn")(inputs)
    model = keras.Model(inputs, keras.ops.tanh(hidden))
    model.operations[-1].name = "bn_activation"
    converted = convert.to_keras(model)
    names = [operation.name for operation in converted.operations]
    assert names[1:] == ["bn", "bn_activation_1", "bn_activation"]


@pytest.mark.parametrize("to", [convert.fold, convert.to_keras])
def test_an_activation_that_is_a_layer_has_a_name_of_its_own(to):
    def norm(name, activation):
        return layers.BatchNormalization(name=name, activation=keras.layers.PReLU(name=activation))

    parts = [
        keras.layers.Dense(5),
        norm("first", "act"),
        keras.layers.ReLU(name="act_1"),
        norm("second", "act"),
        keras.layers.Dense(5, name="act_3"),
        norm("third", "other"),
        keras.layers.ReLU(name="act"),
    ]
    converted = to(keras.Sequential([keras.Input((5,)), *parts]))
    names = [layer.name for layer in converted.layers if isinstance(layer, keras.layers.PReLU)]
    assert names == ["act_2", "act_4", "other"]
