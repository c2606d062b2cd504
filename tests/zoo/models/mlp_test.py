import keras
import numpy as np
import pytest

import zoo


def test_default_is_three_layers_of_100_units():
    model = zoo.create_model("mlp", input_shape=(28, 28, 1), norm="batch_norm")
    assert [model.get_layer(f"hidden{i}_dense").units for i in (1, 2, 3)] == [100, 100, 100]
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    # Kernels, gamma and beta of each layer; kernel and bias of the classifier.
    assert trainable == (784 + 100 + 100) * 100 + 3 * 2 * 100 + 100 * 10 + 10


@pytest.mark.parametrize("norm", ["batch_norm", "batch_renorm", keras.layers.BatchNormalization])
def test_a_norm_stands_before_each_nonlinearity_and_replaces_the_bias(norm):
    model = zoo.create_model("mlp", norm=norm, hidden_units=(5, 4))
    for i in (1, 2):
        dense, norm_layer = model.get_layer(f"hidden{i}_dense"), model.get_layer(f"hidden{i}_norm")
        assert not dense.use_bias
        assert norm_layer.input is dense.output
        assert model.get_layer(f"hidden{i}_activation").input is norm_layer.output


def test_without_norm_it_is_a_plain_network():
    options = {"norm": "none", "hidden_units": [5, 4], "activation": "sigmoid"}
    model = zoo.create_model("mlp", input_shape=(3, 2, 1), classifier_activation=None, **options)
    weights = [np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(model.weights)]
    model.set_weights(weights)
    x = np.random.default_rng(9).normal(size=(7, 3, 2, 1))

    hidden = x.reshape(7, 6)
    for kernel, bias in (weights[0:2], weights[2:4]):
        hidden = 1 / (1 + np.exp(-(hidden @ kernel + bias)))
    expected = hidden @ weights[4] + weights[5]
    np.testing.assert_allclose(model(x.astype(np.float32)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("hidden_units", "error"), [(100, TypeError), ("100", TypeError), ((100, 0), ValueError)]
)
def test_hidden_units_are_checked(hidden_units, error):
    message = r"`hidden_units` must be integers of 1 or more, such as \(100, 100, 100\), received"
    with pytest.raises(error, match=message):
        zoo.create_model("mlp", hidden_units=hidden_units)
