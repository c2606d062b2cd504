import keras
import pytest
from keras.src.saving import serialization_lib

from keras_renorm import layers
from keras_renorm.layers.configuration import own_arguments


class WithOwnConstructor(layers.BatchNormalization):
    def __init__(self, **options):
        super().__init__(momentum=0.5, **options)


class WithoutOwnConstructor(layers.BatchNormalization):
    pass


def test_only_what_differs_from_the_defaults():
    names = ("axis", "momentum", "gamma_initializer", "beta_regularizer", "activation")
    assert own_arguments(layers.BatchNormalization(), names) == {}
    assert own_arguments(WithoutOwnConstructor(momentum=0.5), names) == {"momentum": 0.5}
    layer = layers.DomainBatchRenormalization(2, beta_regularizer="l2", activation="relu")
    found = own_arguments(layer, (*names, "num_domains", "affine"))
    assert list(found) == ["beta_regularizer", "activation", "num_domains"]
    assert found["activation"] == "relu"
    assert found["beta_regularizer"] == keras.regularizers.serialize(layer.beta_regularizer)


def test_all_of_a_subclass_whose_constructor_may_hide_defaults():
    assert own_arguments(WithOwnConstructor(), ("axis", "momentum")) == {
        "axis": -1,
        "momentum": 0.5,
    }


@pytest.mark.parametrize("make", [layers.BatchNormalization, layers.BatchRenormalization])
def test_defaults_are_left_out_while_a_model_is_saved(make):
    """Keras then marks what lies where something lay before, as defaults may, as shared."""
    layer = make(beta_initializer="ones")
    keys = layer.get_config().keys()
    with serialization_lib.ObjectSharingScope():
        for _ in range(3):
            assert layer.get_config().keys() == keys
