import keras
import numpy as np
import pytest

from keras_renorm import layers

BOTH = [layers.DomainBatchNormalization, layers.DomainBatchRenormalization]
both = pytest.mark.parametrize("layer_class", BOTH)


def test_a_layer_is_of_both_kinds():
    layer = layers.DomainBatchRenormalization(2)
    assert isinstance(layer, layers.BatchRenormalization)
    assert isinstance(layer, layers.DomainBatchNormalization)
    assert issubclass(layers.DomainBatchRenormalization, layers.DomainBatchNormalization)
    plain = layers.DomainBatchNormalization(2)
    assert not isinstance(plain, layers.BatchRenormalization)
    assert not isinstance(plain, layers.DomainBatchRenormalization)
    assert not isinstance(layers.BatchRenormalization(), layers.DomainBatchNormalization)


@both
def test_a_warning_points_at_who_makes_the_layer(layer_class):
    with pytest.warns(UserWarning, match="breaks a rule") as found:
        layer_class(2, batch_statistics="shared")
    assert found[0].filename == __file__


@both
def test_channels_on_the_examples_axis_are_refused(layer_class):
    with pytest.raises(ValueError, match=r"received axis=0 for inputs of shape \(2, 3\)"):
        layer_class(2, axis=0).build((2, 3))


@both
def test_a_mask_that_keras_attached_counts(layer_class):
    x = np.array([[[1.0], [0.0], [3.0]]], "f4")
    layer = layer_class(2, momentum=0.0)
    layer(keras.layers.Masking()(x), domain=1, training=True)
    np.testing.assert_allclose(layer.moving_mean, [[0.0], [2.0]])


@both
def test_ids_are_checked_in_symbolic_calls(layer_class):
    inputs = keras.Input((3,))
    with pytest.raises(TypeError, match="must hold integers, received dtype float32"):
        layer_class(2)(inputs, domain=keras.Input(()))
    with pytest.raises(ValueError, match=r"ids in \[0, 1\].*received 2\."):
        layer_class(2)(inputs, domain=2)


@both
@pytest.mark.parametrize(
    "name", ["num_domains", "batch_statistics", "population_statistics", "affine"]
)
def test_what_is_kept_by_domain_is_settled_in_the_constructor(layer_class, name):
    layer = layer_class(2, affine="domain")
    values = (layer.num_domains, layer.batch_statistics, layer.population_statistics, layer.affine)
    assert values == (2, "domain", "domain", "domain")
    with pytest.raises(AttributeError, match=name):
        setattr(layer, name, "shared")
