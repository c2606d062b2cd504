import keras
import numpy as np
import pytest

from keras_renorm import convert

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


def test_weights_are_told_by_their_names(randomised):
    """A layer that was quantized to float8 has made them in another order."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.add(keras.layers.BatchNormalization())
    model.layers[0].quantize("float8")
    converted = convert.from_keras(randomised(model))
    values = [
        {v.path: keras.ops.convert_to_numpy(v) for v in m.layers[0].variables}
        for m in (converted, model)
    ]
    assert len(values[1]) == 8
    assert values[0].keys() == values[1].keys()
    for path, value in values[1].items():
        np.testing.assert_array_equal(values[0][path], value)


class OwnBuild(keras.Model):
    """A model that Keras cannot build from shapes."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm

    def call(self, x):
        return self.norm(x)

    def get_config(self):
        return super().get_config() | {"norm": keras.saving.serialize_keras_object(self.norm)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"norm": keras.saving.deserialize_keras_object(config["norm"])})

    def get_build_config(self):
        return None


class Growing(keras.layers.Layer):
    """A layer with one weight more at each construction."""

    count = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Growing.count += 1

    def build(self, shape):
        self.weight = self.add_weight(shape=(Growing.count,))

    def call(self, x):
        return x


def own_build():
    model = OwnBuild(keras.layers.BatchNormalization(), name="own")
    model(X)
    return model


class Own(keras.Model):
    def __init__(self, dense, norm):
        super().__init__(name="own")
        self.dense, self.norm = dense, norm

    def call(self, x, training=None):
        return self.norm(self.dense(x), training=training)

    def get_config(self):
        return {
            "dense": keras.saving.serialize_keras_object(self.dense),
            "norm": keras.saving.serialize_keras_object(self.norm),
        }

    @classmethod
    def from_config(cls, config):
        return cls(*map(keras.saving.deserialize_keras_object, config.values()))


REFUSED = {
    "build": (own_build, "OwnBuild 'own' has no weights, because Keras cannot build"),
    "weights": (
        lambda: keras.Sequential([keras.Input((5,)), Growing(name="growing")]),
        r"Growing 'growing' has weights of the shapes \[\(\d,\)\], and a copy .*has \[\(\d,\)\]",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_weights_that_a_copy_cannot_have_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        convert.from_keras(make())


def test_a_model_that_was_never_called_is_named():
    model = Own(keras.layers.Dense(3, name="dense"), keras.layers.BatchNormalization())
    with pytest.warns(UserWarning, match="does not have a `build"):
        model.build((None, 5))
    with pytest.raises(ValueError, match=r"Dense 'dense' has no weights yet\. Call the model once"):
        convert.from_keras(model)
    model(X)
    convert.from_keras(model)


def adapted(layer, data):
    layer.adapt(data)
    return layer


TEXTS = np.array(["a b", "b c"])


@pytest.mark.parametrize(
    ("before", "x"),
    [
        (lambda: [adapted(keras.layers.Normalization(), 5 * X + 3)], X),
        (
            lambda: [adapted(keras.layers.StringLookup(), TEXTS), keras.layers.Embedding(9, 4)],
            TEXTS,
        ),
        (
            lambda: [
                adapted(keras.layers.TextVectorization(output_sequence_length=3), TEXTS),
                keras.layers.Embedding(9, 4),
            ],
            TEXTS,
        ),
        (
            lambda: [
                adapted(keras.layers.Discretization(num_bins=4), X),
                keras.layers.Embedding(9, 4),
            ],
            X,
        ),
    ],
    ids=["normalization", "lookup", "text", "discretization"],
)
@pytest.mark.parametrize("to", [convert.to_batch_renormalization, convert.fold])
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_what_adapt_found_goes_along(before, x, to):
    """It is in no variable that the layer uses: a copy of the variables alone would lose it."""
    inputs = keras.Input(x.shape[1:], dtype=str(x.dtype) if x is X else "string")
    layers = [*before(), keras.layers.BatchNormalization()]
    hidden = inputs
    for layer in layers:
        hidden = layer(hidden)
    model = keras.Model(inputs, hidden)
    x = keras.ops.convert_to_tensor(x)
    y = np.asarray(model(x))
    assert np.ptp(y) > 0.01
    np.testing.assert_allclose(to(model)(x), y, rtol=1e-5, atol=1e-6)


def test_variables_that_are_not_trained_stay_so():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.add(keras.layers.BatchNormalization())
    model.layers[0].bias.trainable = False
    model.layers[1].gamma.trainable = False
    trained = [v.path for v in convert.to_batch_renormalization(model).trainable_variables]
    assert trained == [v.path for v in model.trainable_variables]
    assert [path.split("/")[-1] for path in trained] == ["kernel", "beta"]


@keras.saving.register_keras_serializable("weights_test")
class Slopes(keras.layers.Layer):
    """An activation of a class of its own."""

    def build(self, shape):
        self.slope = self.add_weight(shape=(shape[-1],), name="slope")

    def call(self, x):
        return self.slope * keras.ops.tanh(x)


@pytest.mark.parametrize("kind", [keras.layers.PReLU, Slopes])
@pytest.mark.parametrize("to", [convert.fold, convert.to_keras, convert.from_keras])
def test_weights_that_are_made_in_a_call_go_along(kind, to, randomised):
    """Those of an activation of Keras's layers: a symbolic call does not make them."""
    dense = keras.layers.Dense(5, activation=kind(name="act"))
    model = keras.Sequential([keras.Input((5,)), dense, keras.layers.BatchNormalization()])
    model(X)
    model = randomised(model)
    converted = to(model)
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-5)
    assert not {id(v) for v in converted.variables} & {id(v) for v in model.variables}
