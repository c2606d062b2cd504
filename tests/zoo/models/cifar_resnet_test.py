import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from keras_renorm import layers
from zoo.models.cifar_resnet import cifar_resnet
from zoo.models.head import Head
from zoo.models.normalization import create_normalizer


def make_tiny(input_shape=(8, 8, 3), norm="none"):
    """The smallest of the family: one block a stage."""
    return cifar_resnet(
        depth=8,
        input_shape=input_shape,
        norm=create_normalizer(norm),
        head=Head(num_classes=3, activation=None),
        name="resnet8",
    )


def outputs_of(model, *names):
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


# He et al. 2015, Table 6, give millions; the exact numbers are those of a widely used PyTorch
# replication with option-A shortcuts (akamaster/pytorch_resnet_cifar10).
@pytest.mark.parametrize(
    ("depth", "millions", "exactly"),
    [
        (20, 0.27, 269_722),
        (32, 0.46, 464_154),
        (44, 0.66, 658_586),
        (56, 0.85, 853_018),
        (110, 1.7, 1_727_962),
    ],
)
def test_parameters_and_depth_are_the_papers(depth, millions, exactly):
    model = zoo.create_model(f"resnet{depth}", norm="batch_norm")
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert parameters == exactly
    assert round(parameters / 1e6, 1 if millions == 1.7 else 2) == millions
    weighted = (keras.layers.Conv2D, keras.layers.Dense)
    assert sum(isinstance(layer, weighted) for layer in model.layers) == depth


def test_feature_maps_are_the_papers():
    model = zoo.create_model("resnet20")
    shapes = [model.get_layer(f"stage{s}_block3_out").output.shape[1:] for s in (1, 2, 3)]
    assert shapes == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]


def test_layer_names_are_stable():
    names = [layer.name for layer in make_tiny(norm="batch_renorm").layers]
    expected = ["images", "stem_conv", "stem_norm", "pool", "logits"]
    parts = ("1_conv", "1_norm", "2_conv", "2_norm", "add", "out")
    expected += [f"stage{stage}_block1_{part}" for stage in (1, 2, 3) for part in parts]
    parts = ("1_pad", "shortcut_subsample", "shortcut_channels")
    expected += [f"stage{stage}_block1_{part}" for stage in (2, 3) for part in parts]
    assert sorted(names) == sorted(expected)


def test_each_branch_is_scaled_in_place_of_the_norms(alphas):
    options = {"norm": "skip_init", "norm_options": {"initial_value": "inverse_sqrt_depth"}}
    model = zoo.create_model("resnet20", **options)
    assert alphas(model) == pytest.approx([1 / 3] * 9)
    for layer in model.layers:
        if layer.name.endswith("_add"):
            name = layer.name.replace("_add", "_skip_init")
            assert any(tensor is model.get_layer(name).output for tensor in layer.input)


@pytest.mark.parametrize("norm", ["batch_norm", "batch_renorm", keras.layers.BatchNormalization])
def test_a_norm_follows_each_convolution_and_replaces_its_bias(norm):
    model = make_tiny(norm=norm)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 7
    for convolution in convolutions:
        assert not convolution.use_bias
        following = model.get_layer(convolution.name.replace("conv", "norm"))
        assert following.input is convolution.output
    for block in ("stage1_block1", "stage2_block1", "stage3_block1"):
        norm1, norm2 = (model.get_layer(f"{block}_{i}_norm") for i in (1, 2))
        if isinstance(norm1, layers.BatchNormalization):
            assert (norm1.activation, norm2.activation) == (
                keras.activations.relu,
                keras.activations.linear,
            )
        else:
            assert model.get_layer(f"{block}_1_activation").input is norm1.output
        assert norm2.output in model.get_layer(f"{block}_add").input


def test_without_norm_each_convolution_has_a_bias():
    model = make_tiny(norm="none")
    assert not [layer.name for layer in model.layers if "norm" in layer.name]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 7
    assert all(layer.use_bias for layer in convolutions)


@pytest.mark.parametrize("size", [7, 8])
def test_shortcut_takes_every_other_pixel_and_pads_channels_with_zeros(size):
    model = make_tiny((size, size, 3))
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    parts = outputs_of(model, "stage1_block1_out", "stage2_block1_shortcut_channels")
    x, shortcut = map(np.asarray, parts(images))
    expected = np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (8, 8)))
    np.testing.assert_array_equal(shortcut, expected)


@pytest.mark.parametrize("size", [7, 8])
def test_strided_convolution_is_centred_on_the_pixels_of_the_shortcut(size):
    model = make_tiny((size, size, 3))
    convolution = model.get_layer("stage2_block1_1_conv")
    kernel = np.zeros((3, 3, 16, 32), np.float32)
    kernel[1, 1, :, :16] = np.eye(16)
    convolution.set_weights([kernel, np.zeros(32)])
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    parts = outputs_of(model, "stage1_block1_out", "stage2_block1_1_conv")
    x, y = map(np.asarray, parts(images))
    np.testing.assert_allclose(y[..., :16], x[:, ::2, ::2], rtol=1e-6)


def test_a_block_adds_branch_and_shortcut():
    model = make_tiny()
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    names = ("stem_activation", "stage1_block1_2_conv", "stage1_block1_out")
    x, branch, y = map(np.asarray, outputs_of(model, *names)(images))
    np.testing.assert_allclose(y, np.maximum(x + branch, 0), rtol=1e-6)


def test_weights_are_initialized_after_he():
    keras.utils.set_random_seed(0)
    model = zoo.create_model("resnet20")
    for name, fan_in in (("stage1_block2_1_conv", 9 * 16), ("stage3_block3_2_conv", 9 * 64)):
        kernel = np.asarray(model.get_layer(name).kernel)
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)


@pytest.mark.parametrize("norm", ["batch_norm", "batch_renorm", "none"])
def test_every_weight_has_a_gradient_and_statistics_move(norm):
    keras.utils.set_random_seed(0)
    model = make_tiny(norm=norm)
    before = [weight.numpy() for weight in model.non_trainable_weights]
    images = np.random.default_rng(0).uniform(size=(16, 8, 8, 3)).astype(np.float32)
    labels = np.arange(16) % 3
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert np.abs(gradient).max() > 0, weight.path
    for weight, old in zip(model.non_trainable_weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path


def test_depth_must_fit():
    with pytest.raises(
        ValueError, match=r"`depth` must be 6n\+2 \(8, 14, 20, \.\.\.\), received 18"
    ):
        cifar_resnet(
            depth=18,
            input_shape=(8, 8, 3),
            norm=create_normalizer("none"),
            head=Head(),
            name="resnet18",
        )
