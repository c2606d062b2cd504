import keras
import numpy as np
import pytest

from keras_renorm import convert
from keras_renorm.layers import BatchNormalization

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


def squared(x):
    return x**2


def own_ones(shape, dtype=None):
    return keras.ops.ones(shape, dtype)


def relu(x):
    """Not the one of Keras's, whose name it has."""
    return keras.ops.minimum(keras.ops.maximum(x, 0), 1)


WITH_FUNCTIONS = {
    "not registered": lambda: keras.layers.Dense(4, activation=squared),
    "of a known name": lambda: keras.layers.Dense(4, activation=relu),
    "with a closure": lambda: keras.layers.Dense(4, activation=(lambda f: lambda x: f(x))(squared)),
    "initializer": lambda: keras.layers.Dense(4, kernel_initializer=own_ones),
    "recurrent": lambda: keras.layers.GRU(4, activation=squared),
    "operation": lambda: keras.layers.Activation(squared),
    "layer of a function": lambda: keras.layers.Lambda(squared),
    "layer of a lambda": lambda: keras.layers.Lambda(
        lambda x, f: f(squared(x)), arguments={"f": relu}
    ),
    "norm": lambda: keras.layers.BatchNormalization(gamma_initializer=own_ones),
}


@pytest.mark.parametrize("make", WITH_FUNCTIONS.values(), ids=WITH_FUNCTIONS)
@pytest.mark.parametrize("to", [convert.from_keras, convert.fold])
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_functions_go_along(make, to, randomised):
    layers = [make(), keras.layers.BatchNormalization()]
    model = randomised(keras.Sequential([keras.Input((3, 5)), *layers]))
    x = np.stack([X, X - 1, X + 1], axis=1)
    converted = to(model, report=lambda report: None)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-5, atol=1e-5)
    if to is convert.from_keras:
        assert type(converted.layers[-1]) is not keras.layers.BatchNormalization
        assert type(converted.layers[0]) is not keras.layers.BatchNormalization


def test_the_fold_of_functions(randomised):
    layers = [keras.layers.Dense(4, kernel_initializer=own_ones), BatchNormalization()]
    layers[1].activation = squared
    model = randomised(keras.Sequential([keras.Input((5,)), *layers]))
    converted = convert.fold(model)
    assert len(converted.layers) == 1
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-5)


class OfAName(keras.layers.Layer):
    """A layer that makes one of its own for an activation."""

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.layers.Activation(activation)

    def call(self, x):
        return self.activation(x)

    def get_config(self):
        return super().get_config() | {"activation": "tanh"}


class OfAConfiguration(OfAName):
    """A layer that has its own way from a configuration."""

    def __init__(self, activation, **kwargs):
        super().__init__("linear", **kwargs)
        self.activation = activation

    def get_config(self):
        return super().get_config() | {
            "activation": keras.saving.serialize_keras_object(self.activation)
        }

    @classmethod
    def from_config(cls, config):
        activation = keras.saving.deserialize_keras_object(config["activation"])
        return cls(**config | {"activation": activation})


@pytest.mark.parametrize(
    "make", [lambda: OfAName("tanh"), lambda: OfAConfiguration(keras.layers.PReLU())]
)
def test_activations_that_no_constructor_takes_are_left_to_the_class(make, randomised):
    layers = [make(), keras.layers.BatchNormalization()]
    model = randomised(keras.Sequential([keras.Input((5,)), *layers]))
    copy = convert.from_keras(model)
    np.testing.assert_allclose(copy(X), model(X), rtol=1e-5, atol=1e-6)


class Unregistered(keras.layers.Layer):
    """An activation of which Keras does not know the class."""

    def call(self, x):
        return keras.ops.tanh(x)


REFUSED = {
    "function in a layer in it": (
        lambda holder: keras.Sequential(
            [
                keras.Input((4, 5)),
                keras.layers.RNN(keras.layers.GRUCell(3, activation=squared), name="cells"),
            ]
        ),
        "The RNN 'cells' cannot be copied from its configuration .*'squared'.*"
        r"`keras.saving.custom_object_scope\(",
    ),
    "activation of a norm in a layer": (
        lambda holder: keras.Sequential(
            [
                keras.Input((5,)),
                holder(BatchNormalization(activation=Unregistered()), name="holder"),
                keras.layers.BatchNormalization(),
            ]
        ),
        "The Holder 'holder' cannot be copied from its configuration .*'Unregistered'.*"
        r"`keras.saving.register_keras_serializable\(\)`",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("to", [convert.from_keras, convert.to_synchronized])
def test_what_no_configuration_tells_is_named(make, message, to, holder):
    with pytest.raises(TypeError, match=message):
        to(make(holder))


@keras.saving.register_keras_serializable("configurations_test")
class Scale(keras.layers.Lambda):
    """A `Lambda` with a configuration of its own."""

    def __init__(self, factor, name=None):
        super().__init__(lambda x: factor * x, name=name)
        self.factor = factor

    def get_config(self):
        return {"factor": self.factor, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None, safe_mode=None):
        del custom_objects, safe_mode
        return cls(**config)


def test_a_lambda_of_a_class_of_its_own_is_made_from_its_configuration():
    model = keras.Sequential([keras.Input((5,)), Scale(3.0), keras.layers.BatchNormalization()])
    copy = convert.from_keras(model)
    np.testing.assert_allclose(copy(X), model(X), rtol=1e-6)
