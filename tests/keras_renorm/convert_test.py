import keras
import numpy as np
import pytest

from keras_renorm import convert, layers, schedules

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


def randomised(model):
    values = np.random.default_rng(1)
    model.set_weights([values.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    return model


def norms(model):
    kinds = layers.BatchNormalization, keras.layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]


def sequential():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(epsilon=0.01, momentum=0.9, gamma_regularizer="l1"),
            keras.layers.Dropout(0.5, seed=1),
            layers.BatchRenormalization(r_max=schedules.LinearRamp(1.0, 3.0, 2, 9), d_max=1.0),
            layers.BatchNormalization(synchronized=True, activation="relu", name="third"),
        ]
    )


def built_by_a_call():
    model = keras.Sequential([keras.layers.Dense(4), layers.BatchNormalization()])
    model(X)
    return model


def functional():
    """Nested models, a layer and a model used twice, operations, a lambda, a frozen part."""
    inputs = keras.Input((5,))
    shared = keras.layers.BatchNormalization(name="shared")
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5), shared], name="inner")
    frozen = keras.Sequential([keras.Input((5,)), layers.BatchNormalization(), shared])
    hidden = inner(inputs)
    hidden = keras.ops.tanh(shared(hidden)) + inputs
    hidden = keras.layers.Lambda(lambda x: 2 * x)(inner(hidden))
    model = keras.Model(inputs, [frozen(hidden), hidden])
    model.compile("sgd", loss=lambda target, output: output)
    frozen.trainable = False
    inner.layers[0].trainable = False
    return model


def with_wrappers():
    pair = keras.Sequential([keras.Input((1,)), layers.BatchNormalization()])
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Reshape((5, 1)),
            keras.layers.TimeDistributed(keras.layers.BatchNormalization()),
            keras.layers.TimeDistributed(pair),
        ]
    )


MODELS = [sequential, built_by_a_call, functional, with_wrappers]


@pytest.mark.parametrize("make", MODELS)
def test_every_norm_is_synchronized_and_back_and_nothing_else_changes(make):
    model = randomised(make())
    before = model.get_weights()
    there = convert.to_synchronized(model)
    back = convert.to_unsynchronized(there)
    assert norms(model)
    for converted, synchronized in ((there, True), (back, False)):
        assert [norm.synchronized for norm in norms(converted)] == [synchronized] * len(
            norms(model)
        )
        assert all(isinstance(norm, layers.BatchNormalization) for norm in norms(converted))
        assert [w.path for w in converted.weights] == [w.path for w in model.weights]
        paths = [[w.path for w in m.trainable_weights] for m in (converted, model)]
        assert paths[0] == paths[1]
        flags = [[layer.trainable for layer in m._flatten_layers()] for m in (converted, model)]
        assert flags[0] == flags[1]
        for actual, desired in zip(converted.get_weights(), before, strict=True):
            np.testing.assert_array_equal(actual, desired)
        for actual, desired in zip(
            keras.tree.flatten(converted(X)), keras.tree.flatten(model(X)), strict=True
        ):
            np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)
        assert not converted.compiled
        converted.layers[-1].trainable = not converted.layers[-1].trainable
    for actual, desired in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_the_model_stays_compiled():
    model = functional()
    convert.to_synchronized(model)
    assert model.compiled
    assert model.evaluate(X, [X, X], verbose=0) is not None


def test_options_are_kept():
    model = sequential()
    converted = convert.to_synchronized(model)
    for old, new in zip(norms(model), norms(converted), strict=True):
        kept = [
            {k: v for k, v in layer.get_config().items() if k != "synchronized"}
            for layer in (old, new)
        ]
        assert {key: kept[0][key] for key in kept[1]} == kept[1]
    assert [type(norm).__name__ for norm in norms(converted)] == [
        "BatchNormalization",
        "BatchRenormalization",
        "BatchNormalization",
    ]
    assert norms(converted)[1].r_max == norms(model)[1].r_max


def test_a_layer_used_twice_stays_one_layer():
    converted = convert.to_synchronized(functional())
    assert len(norms(converted)) == 2
    assert converted.get_layer("inner").layers[-1] is converted.get_layer("shared")


def test_a_model_without_weights_yet():
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])
    converted = convert.to_synchronized(model)
    assert not converted.built
    assert [norm.synchronized for norm in norms(converted)] == [True]
    assert converted(X).shape == (6, 4)


def test_a_converted_model_loads(tmp_path):
    converted = convert.to_synchronized(randomised(sequential()))
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [norm.synchronized for norm in norms(loaded)] == [True] * 3
    np.testing.assert_array_equal(loaded(X), converted(X))


def test_an_application_of_keras():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("f4")
    converted = convert.to_synchronized(model)
    assert len(norms(converted)) == 52
    np.testing.assert_allclose(converted(x), model(x), atol=1e-6)


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(name="own")

    def call(self, x):
        return self.norm(x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()

    def call(self, x):
        return self.norm(x)


class OwnConstructor(keras.Model):
    def __init__(self, width):
        inputs = keras.Input((width,))
        super().__init__(inputs, keras.layers.BatchNormalization()(inputs))


class OwnStep(keras.Model):
    def train_step(self, data):
        return {}


def test_a_functional_model_of_another_class_keeps_it():
    inputs = keras.Input((5,))
    model = OwnStep(inputs, keras.layers.BatchNormalization()(inputs))
    assert type(convert.to_synchronized(model)) is OwnStep


def one_layer(layer):
    return keras.Sequential([keras.Input((5,), name="input"), layer], name="net")


REFUSED = {
    "subclassed": (Subclassed, TypeError, "Only Sequential and functional.*type Subclassed"),
    "no model": (lambda: 3, TypeError, "Only Sequential and functional.*received 3 of type int"),
    "own constructor": (
        lambda: OwnConstructor(5),
        TypeError,
        "is of the class OwnConstructor, which a copy would lose",
    ),
    "inside a layer": (
        lambda: one_layer(Block(name="block")),
        ValueError,
        "The BatchNormalization at 'net/block/own' cannot be replaced",
    ),
    "renorm": (
        lambda: one_layer(keras.layers.BatchNormalization(renorm=True, name="brn")),
        ValueError,
        "'brn' is a keras.layers.BatchNormalization with renorm=True",
    ),
}


@pytest.mark.parametrize("to", [convert.to_synchronized, convert.to_unsynchronized])
@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_named(to, make, error, message):
    model = make()
    if isinstance(model, keras.Model):
        model(X)
    with pytest.raises(error, match=message):
        to(model)
