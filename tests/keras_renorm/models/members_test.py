"""Names of the layers in a model, and the batch norms among them."""

import keras
import pytest

from keras_renorm import layers, models
from keras_renorm.layers import BatchNormalization, SkipInit

L = keras.layers


def test_layers_within_layers_have_one_name_each(own_class):
    shared = BatchNormalization(name="norm")
    x = keras.Input((4,), name="x")
    b = own_class(shared, name="b")(L.ReLU(name="relu")(own_class(shared, name="a")(x)))
    found = dict(models.named_layers(keras.Model(x, b)))
    assert list(found) == ["x", "a", "a/norm", "relu", "b"]
    assert found["a/norm"] is shared


def test_layers_of_one_name_are_numbered(own_class):
    class Three(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [own_class(BatchNormalization(name="norm"), name="part") for _ in range(3)]

    assert [name for name, _ in models.named_layers(Three())] == [
        *("part", "part/norm"),
        *("part#2", "part#2/norm"),
        *("part#3", "part#3/norm"),
    ]


@pytest.mark.parametrize("model", [L.Dense(3), None, "model", [keras.Sequential()]])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match=r"`model` must be a Keras model, received .* of type"):
        models.named_layers(model)


class Subclass(layers.BatchRenormalization):
    pass


class SubclassOfKeras(L.BatchNormalization):
    pass


NORMS = {
    "bn": layers.BatchNormalization,
    "brn": layers.BatchRenormalization,
    "domains": lambda: layers.DomainBatchNormalization(2),
    "subclass": Subclass,
    "keras": L.BatchNormalization,
    "keras_renorm": lambda: L.BatchNormalization(renorm=True),
    "subclass of Keras's": SubclassOfKeras,
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_batch_norms_are_told(norm):
    assert models.is_batch_norm(norm())


@pytest.mark.parametrize(
    "layer",
    [L.LayerNormalization(), L.GroupNormalization(1), L.Normalization(), SkipInit(), None],
    ids=lambda layer: type(layer).__name__,
)
def test_what_does_not_use_the_minibatch_is_no_batch_norm(layer):
    assert not models.is_batch_norm(layer)


def test_norms_are_found_once_in_the_model_s_order():
    shared, last = layers.BatchNormalization(), keras.layers.BatchNormalization()
    deep = Subclass()
    inner = keras.Sequential([keras.Input((3,)), shared, keras.Sequential([deep])])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, last(keras.layers.ReLU()(shared(inner(shared(inputs))))))
    found = models.batch_norms(model)
    assert len(found) == 3
    assert {id(layer) for layer in found} == {id(shared), id(deep), id(last)}
    # Those that are chosen come in that order too, once.
    for chosen in ([last, shared, last], (last, shared), {last, shared}):
        assert models.batch_norms(model, chosen) == [one for one in found if one is not deep]
    assert models.batch_norms(inner) == [one for one in found if one is not last]


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_layer_is_a_model_of_one(norm):
    layer = norm()
    assert models.batch_norms(layer) == [layer]


def test_equal_layers_are_not_the_same():
    """It is the model's own layer that counts, and not one of its name."""
    model = keras.Sequential([layers.BatchNormalization(name="norm")], name="model")
    with pytest.raises(
        ValueError, match=r"batch norms of the model 'model', received 'norm'\. It has \['norm'\]"
    ):
        models.batch_norms(model, [layers.BatchNormalization(name="norm")])


@pytest.mark.parametrize("model", [None, [layers.BatchNormalization()], layers.BatchNormalization])
def test_what_is_no_layer_is_named(model):
    with pytest.raises(
        TypeError, match=r"`model` must be a Keras model or layer, received .* of t"
    ):
        models.batch_norms(model)
