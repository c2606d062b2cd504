import keras
import numpy as np
import pytest

from keras_renorm import convert
from keras_renorm.layers import BatchNormalization

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


class OwnConstructor(keras.Sequential):
    def __init__(self, width):
        super().__init__([keras.Input((width,)), keras.layers.BatchNormalization()])


class OwnLayer(keras.Model):
    """A functional model with a layer that is not in its graph."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = keras.layers.Dense(1)


class Pair(keras.layers.Layer):
    """A layer that does not keep its norm in its configuration."""

    def __init__(self, norm=None, **kwargs):
        super().__init__(**kwargs)
        if norm is not None:
            self.norm = norm

    def call(self, x):
        return self.norm(x)

    def get_config(self):
        return super().get_config()

    def compute_output_shape(self, shape):
        return shape


def own_layer():
    inputs = keras.Input((5,))
    return OwnLayer(inputs, keras.layers.BatchNormalization()(inputs), name="own")


REFUSED = {
    "a layer": (
        lambda: keras.layers.Dense(3),
        TypeError,
        "`model` must be a Keras model, received <Dense .*For a single layer, give "
        r"keras.Sequential\(",
    ),
    "constructor": (
        lambda: OwnConstructor(5),
        TypeError,
        "has the class OwnConstructor, which a copy would lose",
    ),
    "layer outside the graph": (
        own_layer,
        TypeError,
        "'own' has the class OwnLayer, which a copy would lose.*no layers of its own",
    ),
    "layers": (
        lambda: keras.Sequential(
            [keras.Input((5,)), Pair(keras.layers.BatchNormalization(), name="pair")]
        ),
        ValueError,
        "The Pair 'pair' holds 1 layers, and a copy from its configuration holds 0",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_copy_would_lose_is_named(make, error, message):
    with pytest.raises(error, match=message):
        convert.from_keras(make())


@pytest.mark.parametrize("to", [convert.to_batch_renormalization, convert.fold])
def test_sharing_that_a_copy_would_lose_is_refused(to, holder):
    shared = keras.layers.BatchNormalization(name="shared")
    inputs = keras.Input((5,))
    model = keras.Model(inputs, holder(shared)(shared(inputs)))
    with pytest.raises(ValueError, match="The BatchNormalization 'shared' is used in several"):
        to(model)
    holders = keras.Sequential([keras.Input((5,)), holder(shared), holder(shared)])
    with pytest.raises(ValueError, match="The copies would not share their weights"):
        to(holders)


@pytest.mark.parametrize("to", [convert.to_batch_renormalization, convert.fold])
def test_sharing_of_what_has_no_weights_may_be_lost(to, holder, randomised):
    shared = keras.layers.LeakyReLU(0.3)
    holders = [holder(BatchNormalization(activation=shared)) for _ in range(2)]
    model = randomised(keras.Sequential([keras.Input((5,)), *holders]))
    converted = to(model, report=lambda report: None)
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-5)
