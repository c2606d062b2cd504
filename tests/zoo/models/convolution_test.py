import keras
import numpy as np
import pytest

from keras_renorm import layers
from zoo.models.convolution import conv_norm, convolution, max_pool
from zoo.models.normalization import create_normalizer

PLAIN = create_normalizer("none")


def names(model):
    return [layer.name for layer in model.layers[1:]]


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_a_centered_filter_stands_on_every_other_pixel(size, kernel_size, rng):
    images = keras.Input((size, size, 2))
    y = convolution(images, 2, kernel_size, 2, norm=PLAIN, name="c_conv", padding="centered")
    model = keras.Model(images, y)
    kernel = np.zeros((kernel_size, kernel_size, 2, 2), np.float32)
    kernel[kernel_size // 2, kernel_size // 2] = np.eye(2)
    model.set_weights([kernel, np.zeros(2)])
    x = rng.normal(size=(3, size, size, 2)).astype(np.float32)
    np.testing.assert_array_equal(model(x), x[:, ::2, ::2])
    assert names(model) == (["c_conv"] if kernel_size == 1 else ["c_pad", "c_conv"])


def test_at_stride_1_centered_is_same():
    images = keras.Input((6, 6, 2))
    model = keras.Model(
        images, convolution(images, 4, 3, norm=PLAIN, name="conv", padding="centered")
    )
    assert names(model) == ["conv"]
    assert model.output_shape == (None, 6, 6, 4)


def test_a_window_of_the_maximum_is_centered_among_zeros(rng):
    images = keras.Input((5, 6, 2))
    model = keras.Model(images, max_pool(images, 3, 2, norm=PLAIN, name="p"))
    assert names(model) == ["p_pad", "p_pool"]
    x = rng.normal(size=(2, 5, 6, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [
        [padded[:, i : i + 3, j : j + 3].max(axis=(1, 2)) for j in (0, 2, 4)] for i in (0, 2, 4)
    ]
    np.testing.assert_array_equal(model(x), np.transpose(expected, (2, 0, 1, 3)))


@pytest.mark.parametrize(
    ("norm", "activation", "expected"),
    [
        ("batch_renorm", "relu", ["n_conv", "n_norm"]),
        ("batch_renorm", None, ["n_conv", "n_norm"]),
        ("none", "relu", ["n_conv", "n_activation"]),
        ("none", None, ["n_conv"]),
        (keras.layers.BatchNormalization, "relu", ["n_conv", "n_norm", "n_activation"]),
    ],
)
def test_the_layers_that_a_normalized_convolution_is_made_of(norm, activation, expected):
    images = keras.Input((6, 6, 2))
    norm = create_normalizer(norm)
    model = keras.Model(images, conv_norm(images, 4, 3, norm=norm, name="n", activation=activation))
    assert names(model) == expected
    assert model.get_layer("n_conv").use_bias == norm.use_bias


def test_channels_may_come_first():
    images = keras.Input((2, 6, 8))
    norm = create_normalizer("batch_norm", data_format="channels_first")
    x = conv_norm(images, 4, 3, 2, norm=norm, name="n", padding="centered")
    model = keras.Model(images, max_pool(x, 3, 2, norm=norm, name="p"))
    assert model.get_layer("n_norm").output.shape == (None, 4, 3, 4)
    assert model.get_layer("n_norm").axis == 1
    assert model.output_shape == (None, 4, 2, 2)
    assert isinstance(model.get_layer("n_norm"), layers.BatchNormalization)
