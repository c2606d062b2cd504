import keras
import numpy as np
import pytest

from keras_renorm import convert

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


@keras.saving.register_keras_serializable("cloning_test")
class Block(keras.layers.Layer):
    """A layer that is given its norm."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm
        self.dense = keras.layers.Dense(5)

    def build(self, shape):
        for layer in (self.norm, self.dense):
            if not layer.built:
                layer.build(shape)
        self.weight = self.add_weight(shape=(5,), name="weight")

    def call(self, x, training=None):
        return self.weight * self.dense(self.norm(x, training=training))

    def get_config(self):
        return super().get_config() | {"norm": keras.saving.serialize_keras_object(self.norm)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"norm": keras.saving.deserialize_keras_object(config["norm"])})


@keras.saving.register_keras_serializable("cloning_test")
class Subclassed(keras.Model):
    """A model that is given its norm, around a functional one that is given, too."""

    def __init__(self, norm, inner, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(5)
        self.norm = norm
        self.inner = inner

    def call(self, x, training=None):
        return self.inner(self.norm(self.first(x), training=training), training=training)

    def get_config(self):
        parts = {"norm": self.norm, "inner": self.inner}
        serialized = {k: keras.saving.serialize_keras_object(v) for k, v in parts.items()}
        return super().get_config() | serialized

    @classmethod
    def from_config(cls, config):
        parts = {k: keras.saving.deserialize_keras_object(config[k]) for k in ("norm", "inner")}
        return cls(**config | parts)


def inner():
    return keras.Sequential([keras.Input((5,)), keras.layers.BatchNormalization(name="in_inner")])


def subclassed():
    model = Subclassed(keras.layers.BatchNormalization(name="norm"), inner(), name="outer")
    model(X)
    return model


def with_block():
    block = Block(keras.layers.BatchNormalization(), name="block")
    return keras.Sequential([keras.Input((5,)), block])


@pytest.mark.parametrize("make", [subclassed, with_block])
def test_what_configurations_hold_is_converted(make, tmp_path, randomised):
    model = randomised(make())
    converted = convert.to_batch_renormalization(model, r_max=2.0, d_max=3.0)
    assert type(converted) is type(model)
    assert [w.path for w in converted.weights] == [w.path for w in model.weights]
    assert {type(layer) for layer in converted._flatten_layers()}.isdisjoint(
        {keras.layers.BatchNormalization}
    )
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-6)
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), converted(X))
