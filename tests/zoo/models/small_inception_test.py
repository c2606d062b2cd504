import re

import keras
import numpy as np
import pytest

import zoo
from keras_renorm import layers

#: Figure 3 of the paper: filters of 1x1, of 3x3, size of the output. Without 1x1 a module halves.
FIGURE = {
    "1a": (32, 32, 32),
    "1b": (32, 48, 32),
    "1c": (0, 80, 16),
    "2a": (112, 48, 16),
    "2b": (96, 64, 16),
    "2c": (80, 80, 16),
    "2d": (48, 96, 16),
    "2e": (0, 96, 8),
    "3a": (176, 160, 8),
    "3b": (176, 160, 8),
}

#: What the names of the layers were when the first weights were published. They must not change.
CONVOLUTIONS = [
    "conv1",
    *(f"inception_{m}_1x1" for m, (conv1x1, _, _) in FIGURE.items() if conv1x1),
    *(f"inception_{m}_3x3" for m in FIGURE),
]


# The paper's table 1 gives one number with and without Batch Norm.
@pytest.mark.parametrize(
    ("norm", "options"), [("none", None), ("batch_norm", {"scale": False}),
                          ("batch_renorm", {"scale": False})]
)  # fmt: skip
def test_numbers_to_train_are_the_papers(norm, options, trainable_parameters):
    model = zoo.create_model("small_inception_96", norm=norm, norm_options=options)
    assert trainable_parameters(model) == 1_649_402


def test_modules_are_the_papers():
    model = zoo.create_model("small_inception_96")
    assert model.get_layer("conv1_conv").filters == 96
    channels = 96
    for module, (conv1x1, conv3x3, size) in FIGURE.items():
        kernel = model.get_layer(f"inception_{module}_3x3_conv").kernel
        assert kernel.shape == (3, 3, channels, conv3x3)
        if conv1x1:
            kernel = model.get_layer(f"inception_{module}_1x1_conv").kernel
            assert kernel.shape == (1, 1, channels, conv1x1)
        channels = (conv1x1 or channels) + conv3x3
        output = model.get_layer(f"inception_{module}").output
        assert output.shape == (None, size, size, channels)
    assert channels == 336


def test_layer_names_are_stable():
    model = zoo.create_model("small_inception_6")
    expected = {"images", "pool", "logits", "predictions"}
    expected |= {f"{name}_{part}" for name in CONVOLUTIONS for part in ("conv", "norm")}
    expected |= {f"inception_{module}" for module in FIGURE}
    expected |= {"inception_1c_pool", "inception_2e_pool"}
    assert {layer.name for layer in model.layers} == expected


@pytest.mark.parametrize("width", [6, 48, 192])
def test_a_width_scales_every_convolution(width):
    model = zoo.create_model(f"small_inception_{width}", norm="none", input_shape=(8, 8, 3))
    paper = zoo.create_model("small_inception_96", norm="none", input_shape=(8, 8, 3))
    for name in CONVOLUTIONS:
        here, there = (m.get_layer(f"{name}_conv").filters for m in (model, paper))
        assert here * 96 == there * width, name


@pytest.mark.parametrize("size", [7, 8])
def test_a_module_that_halves_has_a_convolution_and_the_maximum(size, rng):
    model = zoo.create_model("small_inception_6", norm="none", input_shape=(size, size, 3))
    parts = ("inception_1b", "inception_1c_3x3_activation", "inception_1c_pool", "inception_1c")
    outputs = [model.get_layer(name).output for name in parts]
    images = rng.uniform(size=(2, size, size, 3)).astype(np.float32)
    x, wide, pooled, y = map(np.asarray, keras.Model(model.input, outputs)(images))
    np.testing.assert_array_equal(y, np.concatenate([pooled, wide], axis=-1))
    # TensorFlow's "same": of an even size the first window stands on the first pixel.
    border = (0, 1) if size % 2 == 0 else (1, 1)
    padded = np.pad(x, ((0, 0), border, border, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    np.testing.assert_array_equal(pooled, windows[:, ::2, ::2].max((-2, -1)))


def test_a_norm_with_its_relu_follows_each_convolution():
    model = zoo.create_model("small_inception_6", input_shape=(8, 8, 3))
    for name in CONVOLUTIONS:
        norm = model.get_layer(f"{name}_norm")
        assert isinstance(norm, layers.BatchRenormalization)
        assert norm.activation is keras.activations.relu
        assert norm.input is model.get_layer(f"{name}_conv").output
        assert not model.get_layer(f"{name}_conv").use_bias


@pytest.mark.parametrize(
    ("width", "nearest"), [(1, 6), (8, 6), (10, 12), (50, 48), (95, 96), (6150, 6144)]
)
def test_a_width_that_does_not_fit_is_refused(width, nearest):
    message = (
        "The width W of small_inception_W must be a multiple of 6 up to 6144, received "
        f"{width}. The nearest is small_inception_{nearest}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        zoo.create_model(f"small_inception_{width}")


@pytest.mark.parametrize("name", ["small_inception_0", "small_inception", "small_inception_x"])
def test_what_is_no_number_is_no_name(name):
    message = rf"Unknown model '{name}'\. Did you mean 'small_inception_"
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name)


def test_residual_options_are_refused():
    with pytest.raises(ValueError, match="skip_init"):
        zoo.create_model("small_inception_48", norm="skip_init")
