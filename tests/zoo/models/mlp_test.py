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
    names = [layer.name for layer in model.layers]
    for i in (1, 2):
        dense, norm_layer = model.get_layer(f"hidden{i}_dense"), model.get_layer(f"hidden{i}_norm")
        assert not dense.use_bias
        assert norm_layer.input is dense.output
        if norm is keras.layers.BatchNormalization:
            assert model.get_layer(f"hidden{i}_activation").input is norm_layer.output
        else:
            assert norm_layer.activation is keras.activations.relu
            assert f"hidden{i}_activation" not in names


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


@pytest.mark.parametrize("norm", ["none", "batch_renorm"])
def test_the_sigmoid_net_is_that_of_the_paper(norm):
    model = zoo.create_model("mlp_sigmoid", norm=norm)
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 10)
    kernels = [model.get_layer(f"hidden{i}_dense").kernel.numpy() for i in (1, 2, 3)]
    assert [kernel.shape for kernel in kernels] == [(784, 100), (100, 100), (100, 100)]
    for kernel in kernels:
        assert np.mean(kernel) == pytest.approx(0.0, abs=0.005)
        assert np.std(kernel) == pytest.approx(0.1, rel=0.03)
        # Gaussian: 0.3 % lie beyond three deviations, and none does if truncated or uniform.
        assert 0.001 < np.mean(np.abs(kernel) > 0.3) < 0.006
    assert np.abs(np.corrcoef(kernels[1].ravel(), kernels[2].ravel())[0, 1]) < 0.05
    ends = ("hidden1_norm", "hidden3_norm") if norm == "batch_renorm" else ("hidden1_activation",)
    for name in ends:
        assert model.get_layer(name).activation is keras.activations.sigmoid


def test_the_sigmoid_net_has_no_options():
    message = "Unknown option 'activation' for model 'mlp_sigmoid'"
    with pytest.raises(ValueError, match=message):
        zoo.create_model("mlp_sigmoid", activation="relu")


def test_layer_names_are_stable():
    names = [layer.name for layer in zoo.create_model("mlp").layers]
    hidden = [f"hidden{i}_{part}" for i in (1, 2, 3) for part in ("dense", "norm")]
    assert names == ["images", "flatten", *hidden, "logits", "predictions"]
