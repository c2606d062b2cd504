import keras
import numpy as np
import pytest

import zoo

#: {depth: (parameters, multiply-adds in 10^9)}. Trainable parameters as torchvision publishes them,
#: which `keras.applications` has beside a bias for each normalized convolution; multiply-adds as in
#: table 1 of the paper.
PUBLISHED = {
    18: (11_689_512, 1.8),
    34: (21_797_672, 3.6),
    50: (25_557_032, 3.8),
    101: (44_549_160, 7.6),
    152: (60_192_808, 11.3),
}

RESNET18 = """
    conv1_conv conv1_norm
    conv2_block1_1_conv conv2_block1_1_norm conv2_block1_2_conv conv2_block1_2_norm
    conv2_block2_1_conv conv2_block2_1_norm conv2_block2_2_conv conv2_block2_2_norm
    conv3_block1_0_conv conv3_block1_0_norm
    conv3_block1_1_conv conv3_block1_1_norm conv3_block1_2_conv conv3_block1_2_norm
    conv3_block2_1_conv conv3_block2_1_norm conv3_block2_2_conv conv3_block2_2_norm
    conv4_block1_0_conv conv4_block1_0_norm
    conv4_block1_1_conv conv4_block1_1_norm conv4_block1_2_conv conv4_block1_2_norm
    conv4_block2_1_conv conv4_block2_1_norm conv4_block2_2_conv conv4_block2_2_norm
    conv5_block1_0_conv conv5_block1_0_norm
    conv5_block1_1_conv conv5_block1_1_norm conv5_block1_2_conv conv5_block1_2_norm
    conv5_block2_1_conv conv5_block2_1_norm conv5_block2_2_conv conv5_block2_2_norm
    logits
"""


def outputs_of(model, *names):
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


@pytest.mark.parametrize("depth", PUBLISHED)
def test_size_and_cost_are_the_published_ones(depth, trainable_parameters, multiply_adds):
    model = zoo.create_model(f"resnet{depth}", norm="batch_norm")
    parameters, billions = PUBLISHED[depth]
    assert trainable_parameters(model) == parameters
    # The paper cuts 3.66 and 3.86 off after one digit, and rounds 7.57 and 11.28.
    assert multiply_adds(model) / 1e9 == pytest.approx(billions, abs=0.07)
    main_path = [
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and "_0_" not in layer.name
    ]
    assert len(main_path) == depth
    assert model.get_layer("conv5_block1_out").output.shape[1:3] == (7, 7)
    assert model.output_shape == (None, 1000)


def test_layer_names_are_stable(weighted_layers):
    model = zoo.create_model("resnet18", input_shape=(32, 32, 3))
    assert sorted(weighted_layers(model)) == sorted(RESNET18.split())
    unweighted = {layer.name for layer in model.layers if not layer.weights}
    blocks = {f"conv{stage}_block{block}" for stage in (2, 3, 4, 5) for block in (1, 2)}
    assert unweighted == {
        *("images", "conv1_pad", "pool1_pad", "pool1_pool", "pool", "predictions"),
        *(f"{block}_{end}" for block in blocks for end in ("add", "out")),
        *(f"conv{stage}_block1_1_pad" for stage in (3, 4, 5)),
    }


@pytest.mark.slow
def test_it_computes_what_keras_applications_does(
    randomize_like_trained, copy_from_keras_application, weighted_layers, rng
):
    shape = (45, 38, 3)
    source = keras.applications.ResNet50(weights=None, input_shape=shape, classes=7)
    randomize_like_trained(source)
    images = rng.normal(size=(3, *shape)).astype(np.float32)
    features = outputs_of(source, "conv5_block3_out")
    expected = [np.asarray(y) for y in (source(images), features(images)[0])]
    for norm in ("batch_norm", "batch_renorm"):
        model = zoo.create_model(
            "resnet50",
            norm=norm,
            norm_options={"epsilon": 1.001e-5},
            input_shape=shape,
            num_classes=7,
        )
        copied = copy_from_keras_application(source, model)
        assert sorted(copied) == sorted(weighted_layers(model))
        y = model(images, training=False)
        np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
        y = outputs_of(model, "conv5_block3_out")(images, training=False)[0]
        np.testing.assert_allclose(y, expected[1], rtol=1e-5, atol=1e-5 * np.max(expected[1]))
    # A bias for each of the 53 convolutions is all that Keras has on top.
    biases = sum(layer.filters for layer in source.layers if isinstance(layer, keras.layers.Conv2D))
    assert source.count_params() == zoo_parameters("resnet50", shape) + biases


def zoo_parameters(name, shape):
    model = zoo.create_model(name, norm="batch_norm", input_shape=shape, num_classes=7)
    return model.count_params()


def test_a_strided_filter_stands_on_the_pixels_of_the_shortcut(rng):
    model = zoo.create_model("resnet18", norm="none", input_shape=(32, 32, 3))
    kernel = np.zeros((3, 3, 64, 128), np.float32)
    kernel[1, 1, :, :64] = np.eye(64)
    model.get_layer("conv3_block1_1_conv").set_weights([kernel, np.zeros(128)])
    parts = outputs_of(model, "conv2_block2_out", "conv3_block1_1_conv")
    x, y = parts(rng.normal(size=(2, 32, 32, 3)).astype(np.float32))
    np.testing.assert_allclose(y[..., :64], x[:, ::2, ::2], rtol=1e-6)


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (50, 16)])
def test_each_branch_is_scaled_in_place_of_the_norms(depth, blocks, alphas, weighted_layers):
    options = {"norm": "skip_init", "norm_options": {"initial_value": "inverse_sqrt_depth"}}
    model = zoo.create_model(f"resnet{depth}", input_shape=(32, 32, 3), **options)
    assert alphas(model) == pytest.approx([blocks**-0.5] * blocks)
    assert not [name for name in weighted_layers(model) if name.endswith("_norm")]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert all(layer.use_bias for layer in convolutions)
    for layer in model.layers:
        if layer.name.endswith("_add"):
            name = layer.name.replace("_add", "_skip_init")
            assert any(tensor is model.get_layer(name).output for tensor in layer.input)
