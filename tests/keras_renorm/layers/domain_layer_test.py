"""What the layers with domains share; their numbers are in the tests of each."""

import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.layers.domain_layer import DomainLayer

both = pytest.mark.parametrize(
    "layer_class", [layers.DomainBatchNormalization, layers.DomainBatchRenormalization]
)


@both
def test_each_is_a_layer_with_domains_and_a_batch_norm(layer_class):
    assert issubclass(layer_class, DomainLayer)
    assert issubclass(layer_class, layers.BatchNormalization)


@both
def test_the_configuration_holds_the_arguments_of_both_bases(layer_class):
    layer = layer_class(3, affine="domain", momentum=0.9, name="norm")
    config = layer.get_config()
    assert (config["num_domains"], config["affine"], config["momentum"]) == (3, "domain", 0.9)
    assert layer_class.from_config(config).get_config() == config


@both
def test_the_channels_are_not_the_examples(layer_class):
    with pytest.raises(ValueError, match=r"`axis` must not be that of the examples, 0"):
        layer_class(2, axis=0).build((4, 3))


@both
def test_a_mask_that_keras_attached_is_found_beside_a_second_tensor(layer_class):
    """Keras hands a mask over only where a layer has one tensor argument."""
    x = np.array([[[1.0], [0.0], [3.0]], [[5.0], [7.0], [0.0]]], "float32")
    masked = keras.layers.Masking()(x)
    layer = layer_class(2, momentum=0.0)
    layer(masked, domain=np.array([0, 1]), training=True)
    mean = keras.ops.convert_to_numpy(layer.moving_mean)
    np.testing.assert_allclose(mean, [[2.0], [6.0]], rtol=1e-6)


@both
def test_symbolic_ids_are_checked(layer_class):
    inputs, ids = keras.Input((3,)), keras.Input((), dtype="float32")
    with pytest.raises(TypeError, match=r"`domain` must hold integers"):
        layer_class(2)(inputs, domain=ids)
