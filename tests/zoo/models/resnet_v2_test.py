import keras
import numpy as np
import pytest

import zoo

#: {depth: (trainable, all parameters)}, as `model.summary()` of `keras.applications` and its
#: documentation have them; the documentation rounds the latter to 25.6M, 44.7M and 60.4M.
PUBLISHED = {
    50: (25_568_360, 25_613_800),
    101: (44_577_896, 44_675_560),
    152: (60_236_904, 60_380_648),
}


def outputs_of(model, *names):
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


@pytest.mark.parametrize("depth", PUBLISHED)
def test_size_is_the_published_one(depth, trainable_parameters):
    model = zoo.create_model(f"resnet{depth}v2", norm="batch_norm")
    assert (trainable_parameters(model), model.count_params()) == PUBLISHED[depth]
    assert model.get_layer("post_norm").output.shape == (None, 7, 7, 2048)
    assert model.output_shape == (None, 1000)


@pytest.mark.slow
def test_it_computes_what_keras_applications_does(
    randomize_like_trained, copy_from_keras_application, weighted_layers, rng
):
    shape = (45, 38, 3)
    source = keras.applications.ResNet50V2(weights=None, input_shape=shape, classes=7)
    randomize_like_trained(source)
    images = rng.normal(size=(3, *shape)).astype(np.float32)
    expected = np.asarray(source(images))
    features = np.asarray(outputs_of(source, "conv5_block3_out")(images)[0])
    for norm in ("batch_norm", "batch_renorm"):
        options = {"norm": norm, "norm_options": {"epsilon": 1.001e-5}}
        model = zoo.create_model("resnet50v2", input_shape=shape, num_classes=7, **options)
        copied = copy_from_keras_application(source, model)
        assert sorted(copied) == sorted(weighted_layers(model))
        y = model(images, training=False)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        y = outputs_of(model, "conv5_block3_out")(images, training=False)[0]
        np.testing.assert_allclose(y, features, rtol=1e-5, atol=1e-5 * np.abs(features).max())


def test_convolutions_that_no_norm_follows_have_a_bias():
    model = zoo.create_model("resnet50v2", input_shape=(32, 32, 3), norm="batch_norm")
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    with_bias = {layer.name for layer in convolutions if layer.use_bias}
    ends = ("conv1_conv", "_0_conv", "_3_conv")
    assert with_bias == {layer.name for layer in convolutions if layer.name.endswith(ends)}
    assert len(with_bias) == 1 + 4 + 16


def test_each_branch_is_scaled_in_place_of_the_norms(alphas, weighted_layers):
    options = {"norm": "skip_init", "norm_options": {"initial_value": "inverse_sqrt_depth"}}
    model = zoo.create_model("resnet50v2", input_shape=(32, 32, 3), **options)
    assert alphas(model) == pytest.approx([16**-0.5] * 16)
    assert not [name for name in weighted_layers(model) if name.endswith("_norm")]
    for name in ("conv2_block1", "conv5_block3"):
        branch = model.get_layer(f"{name}_skip_init").output
        assert any(tensor is branch for tensor in model.get_layer(f"{name}_out").input)
