import keras
import numpy as np

from keras_renorm.convert.cloning import rewritten
from keras_renorm.convert.rewrite import Rewrite

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


def model():
    layers = keras.layers.Dense(4, name="dense"), keras.layers.ReLU(name="relu")
    return keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(3, name="last")])


def test_as_it_stands_it_changes_nothing(randomised):
    before = randomised(model())
    after = rewritten(before, Rewrite())
    assert after.get_config() == before.get_config()
    np.testing.assert_array_equal(after(X), before(X))


class Doubling(Rewrite):
    """Leaves out ReLUs, has the first layer be of twice the size and frozen, and tanh follow."""

    def replace(self, layer):
        if layer.name != "dense":
            return None
        return keras.layers.Dense(2 * layer.units, name=layer.name)

    def follow(self, layer):
        return keras.layers.Activation("tanh", name="last") if layer.name == "dense" else None

    def removes(self, layer):
        return isinstance(layer, keras.layers.ReLU)

    def transfer(self, old, new):
        new.set_weights([np.concatenate([w, -w], axis=-1) for w in old.get_weights()])

    def trainable(self, layer):
        return layer.name != "dense"


def test_layers_are_replaced_followed_and_left_out(randomised):
    before = randomised(keras.Sequential([keras.Input((5,)), *model().layers[:2]]))
    after = rewritten(before, Doubling())
    assert [layer.name for layer in after.layers] == ["dense", "last"]
    assert [layer.trainable for layer in after.layers] == [False, True]
    z = before.layers[0](X)
    np.testing.assert_allclose(after(X), np.tanh(np.concatenate([z, -z], axis=-1)), rtol=1e-5)
