"""What holds on every Keras backend; `backends_test.py` runs this under each in a process."""

import os

import keras
import numpy as np
import pytest

from keras_renorm import convert, layers
from keras_renorm.convert.counterparts import as_keras

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


def assert_close(actual, desired, atol):
    actual, desired = (keras.ops.convert_to_numpy(value) for value in (actual, desired))
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=atol)


def test_the_backend_is_the_one_asked_for():
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]


@keras.saving.register_keras_serializable("backend_checks")
class OfTwo(keras.Model):
    """A subclassed model of a structure of two inputs."""

    def __init__(self, norm=None, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm

    def call(self, x, training=None):
        first, second = keras.tree.flatten(x)
        return self.norm(first, training=training) + second

    def get_config(self):
        return super().get_config() | {"norm": keras.saving.serialize_keras_object(self.norm)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"norm": keras.saving.deserialize_keras_object(config["norm"])})


@pytest.mark.parametrize("inputs", [{"a": X, "b": 2 * X}, [X, 2 * X], (X, 2 * X)])
def test_a_subclassed_model_of_several_inputs(inputs, randomised):
    model = OfTwo(keras.layers.BatchNormalization())
    model(inputs)
    converted = convert.from_keras(randomised(model))
    assert_close(converted(inputs), model(inputs), atol=1e-6)


def test_flags_of_layers_in_models_and_of_shared_ones():
    shared = layers.BatchNormalization(name="shared")
    first = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5), shared])
    second = keras.Sequential([keras.Input((5,)), shared, layers.BatchNormalization()])
    inputs = keras.Input((5,))
    model = keras.Model(inputs, second(first(inputs)))
    second.trainable = False
    for trainable in (False, True):
        shared.trainable = trainable
        converted = convert.to_batch_renormalization(model)
        flags = [[layer.trainable for layer in m._flatten_layers()] for m in (converted, model)]
        assert flags[0] == flags[1]
        paths = [[w.path for w in m.trainable_weights] for m in (converted, model)]
        assert paths[0] == paths[1]


@pytest.mark.parametrize("to", [convert.fold, convert.to_keras, convert.to_synchronized])
def test_an_activation_that_is_a_layer_goes_along(to, randomised):
    activation = keras.layers.PReLU()
    norms = [layers.BatchNormalization(activation=activation) for _ in range(2)]
    parts = keras.layers.Dense(4), norms[0], keras.layers.Dense(4), norms[1]
    model = randomised(keras.Sequential([keras.Input((5,)), *parts]))
    converted = to(model)
    assert_close(converted(X), model(X), atol=1e-5)
    assert not {id(v) for v in converted.variables} & {id(v) for v in model.variables}


@pytest.mark.parametrize("to", [convert.fold, convert.to_keras])
def test_a_call_for_training_of_a_model_computes_the_same(to, randomised):
    norm = layers.BatchNormalization(activation="relu")
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), norm])
    inputs = keras.Input((5,))
    model = randomised(keras.Model(inputs, inner(inputs, training=True)))
    assert_close(to(model)(X), model(X), atol=1e-5)


def test_synchronized_is_left_out_where_keras_refuses_it():
    with pytest.raises(ValueError, match="only supported with the TensorFlow backend"):
        keras.layers.BatchNormalization(synchronized=True)
    layer = layers.BatchNormalization(synchronized=True, name="norm")
    keras_layer = as_keras(layer)
    assert keras_layer.name == "norm"
    assert not keras_layer.synchronized


class MadeInside(keras.Model):
    """A model of the ordinary kind, whose constructor makes its norms."""

    def __init__(self):
        super().__init__(name="made_inside")
        self.first = keras.Sequential([keras.layers.Dense(5), keras.layers.BatchNormalization()])
        self.pair = [keras.layers.BatchNormalization(), (keras.layers.BatchNormalization(),)]

    def call(self, x, training=None):
        # Under JAX a model's `fit` hands `training` to no layer by itself.
        for part in (self.first, self.pair[0], self.pair[1][0]):
            x = part(x, training=training)
        return x


def test_in_place(norms):
    model = MadeInside()
    model(X)
    model.compile("adam", "mse")
    model.fit(X, X, epochs=2, verbose=0)
    before, gammas = model.predict(X, verbose=0), [id(norm.gamma) for norm in norms(model)]
    paths = [weight.path for weight in model.weights]
    convert.to_batch_renormalization(model, in_place=True, r_max=3.0, d_max=5.0)
    assert {type(norm) for norm in norms(model)} == {layers.BatchRenormalization}
    assert [id(norm.gamma) for norm in norms(model)] == gammas
    assert [weight.path for weight in model.weights] == paths
    assert_close(model.predict(X, verbose=0), before, atol=1e-5)
    assert_close(model(X), before, atol=1e-5)
    statistics = [np.copy(norm.get_weights()[2:4]) for norm in norms(model)]
    model.fit(X, X, epochs=1, verbose=0)
    for norm, old in zip(norms(model), statistics, strict=True):
        assert np.any(norm.get_weights()[2:4] != old)
    if keras.backend.backend() == "torch":
        shown = {name for name, _ in model._torch_params.items()}
        assert shown == set(paths)
        values = {id(value) for value in model._torch_params.values()}
        assert values == {id(variable.value) for variable in model.variables}
