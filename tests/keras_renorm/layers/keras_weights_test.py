"""Weights of Keras's layer with `renorm=True`, by hand and from files of each format."""

import keras
import numpy as np
import pytest

from keras_renorm import convert, layers
from keras_renorm.layers.keras_weights import without_renorm

L = keras.layers
PAPER = {"r_max": 3.0, "d_max": 5.0}
KINDS = [
    (layers.BatchNormalization, {}),
    (layers.BatchRenormalization, {}),
    (layers.BatchRenormalization, PAPER),
]


def net(norm):
    return keras.Sequential([keras.Input((4,)), L.Dense(5), norm, L.Dense(2)], name="net")


def trained(rng, **options):
    """A trained model of Keras's layers with `renorm=True`."""
    model = net(L.BatchNormalization(renorm=True, **options))
    model.compile("sgd", "mse")
    x = rng.normal(1.0, 2.0, (32, 4))
    model.fit(x, rng.normal(size=(32, 2)), epochs=2, verbose=0)
    return model, x


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"scale": False, "center": False}])
@pytest.mark.parametrize(("kind", "own"), KINDS)
def test_set_weights_takes_those_of_inference(rng, kind, own, options):
    model, x = trained(rng, **options)
    theirs, ours = model.layers[1], kind(**own, **options)
    ours.build((None, 5))
    ours.set_weights(theirs.get_weights())
    features = model.layers[0](x)
    np.testing.assert_allclose(ours(features), theirs(features), rtol=1e-5, atol=1e-5)


def test_beside_an_activation_with_weights(rng):
    model, _ = trained(rng)
    weights = [*model.layers[1].get_weights(), np.full(5, 0.5, "f4")]
    for kind, own in KINDS:
        layer = kind(activation=L.PReLU(), **own)
        layer.build((None, 5))
        layer.set_weights(weights)
        np.testing.assert_array_equal(layer.activation.alpha, weights[-1])
        np.testing.assert_array_equal(layer.moving_variance, weights[3])


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras"])
def test_a_file_of_keras_layers_loads_where_the_class_has_the_same_name(rng, tmp_path, name):
    model, x = trained(rng)
    model.save(tmp_path / name) if name.endswith("keras") else model.save_weights(tmp_path / name)
    ours = net(layers.BatchNormalization())
    ours.load_weights(tmp_path / name)
    np.testing.assert_allclose(ours(x), model(x), rtol=1e-5, atol=1e-5)
    renorm = convert.to_batch_renormalization(ours)
    np.testing.assert_allclose(renorm(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras", "w.h5"])
def test_a_file_of_any_format_by_the_way_that_the_documents_name(rng, tmp_path, name):
    model, x = trained(rng)
    if name == "w.weights.h5":
        model.save_weights(tmp_path / name)
    else:
        model.save(tmp_path / name)
    loaded = net(L.BatchNormalization(renorm=True))
    loaded.load_weights(tmp_path / name)
    ours = convert.from_keras(loaded)
    assert type(ours.layers[1]) is layers.BatchRenormalization
    np.testing.assert_allclose(ours(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_class_of_a_file_is_named_for_both_layers(tmp_path):
    net(layers.BatchRenormalization()).save_weights(tmp_path / "w.weights.h5")
    message = r"no weights for the BatchNormalization layer .*that it was saved with, and convert"
    with pytest.raises(ValueError, match=message):
        net(layers.BatchNormalization()).load_weights(tmp_path / "w.weights.h5")


def test_other_weights_stay_for_keras_to_refuse():
    vector, matrix = np.zeros(3), np.zeros((4, 3))
    assert without_renorm([vector] * 7, 4) == [vector] * 4
    for values in ([vector] * 6, [vector] * 4 + [matrix] * 3, [matrix] + [vector] * 6):
        assert without_renorm(values, 4) is values
    assert len(without_renorm([vector] * 8, 4, 5)) == 5
    assert len(without_renorm([vector] * 8, 4, 4)) == 8
    layer = layers.BatchNormalization()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="weight list of length 6"):
        layer.set_weights([vector] * 6)
