import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.models.inception_v3 import CONVOLUTIONS

#: What the names of the layers were when the first weights were published. They must not change.
BRANCHES = {
    "stem": "1 2 3 4 5",
    "mixed0": "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 pool",
    "mixed1": "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 pool",
    "mixed2": "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 pool",
    "mixed3": "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3",
    "mixed4": "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 pool",
    "mixed5": "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 pool",
    "mixed6": "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 pool",
    "mixed7": "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 pool",
    "mixed8": "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4",
    "mixed9": "1x1 3x3_1 3x3_1x3 3x3_3x1 3x3dbl_1 3x3dbl_2 3x3dbl_1x3 3x3dbl_3x1 pool",
    "mixed10": "1x1 3x3_1 3x3_1x3 3x3_3x1 3x3dbl_1 3x3dbl_2 3x3dbl_1x3 3x3dbl_3x1 pool",
}
OTHERS = {
    *("images", "stem_pool1", "stem_pool2", "pool", "logits", "predictions"),
    *(f"mixed{i}" for i in range(11)),
    *(f"mixed{i}_pool" for i in range(11)),
    *(f"mixed{i}_{branch}" for i in (9, 10) for branch in ("3x3", "3x3dbl")),
}

#: What a fresh process does with a saved model: it knows `keras_renorm`, but not `zoo`.
LOAD_AND_PREDICT = """
import sys
import keras, numpy as np
import keras_renorm
assert "zoo" not in sys.modules
model = keras.saving.load_model(sys.argv[1] + ".keras")
data = np.load(sys.argv[1] + ".npz")
outputs = model(data["x"], training=False)
np.testing.assert_allclose(outputs[0], data["first"], rtol=1e-5, atol=1e-6)
np.testing.assert_allclose(outputs[1], data["second"], rtol=1e-5, atol=1e-6)
"""


def make(size=75, norm="batch_renorm", **options):
    options = {"num_classes": 5, "input_shape": (size, size, 3), **options}
    return zoo.create_model("inception_v3", norm=norm, **options)


def make_images(shape, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, size=shape).astype(np.float32)


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def randomize(model):
    """Gives weights and statistics values of which no channel's output vanishes or explodes."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "float" not in str(variable.dtype):
            continue
        shape = variable.shape
        if len(shape) > 1:
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif "variance" in variable.name:
            value = rng.uniform(0.5, 2.0, shape)
        else:
            value = rng.normal(size=shape) * 0.2
        variable.assign(value)


def made_in_order(model, layer_class):
    """Keras's own layers of a kind in the order in which they were made, by their numbers."""

    def number(layer):
        ending = layer.name.rpartition("_")[2]
        return int(ending) if ending.isdigit() else 0

    return sorted((la for la in model.layers if isinstance(la, layer_class)), key=number)


@pytest.fixture(scope="module")
def reference():
    """The network of Keras with random weights and statistics, and what it gives."""
    model = keras.applications.InceptionV3(
        weights=None, input_shape=(75, 75, 3), classes=5, classifier_activation=None
    )
    randomize(model)
    images = make_images((2, 75, 75, 3))
    return model, images, [np.asarray(y) for y in parts_of(model)(images, training=False)]


def parts_of(model):
    """What the blocks at each end of a grid give, and the output of the model."""
    names = ("mixed0", "mixed3", "mixed7", "mixed8", "mixed10")
    return keras.Model(model.input, [*(model.get_layer(n).output for n in names), model.output])


def copy_body(model, source):
    """Sets our weights from Keras's by the order of creation, which is what `CONVOLUTIONS` says."""
    convolutions = made_in_order(source, keras.layers.Conv2D)
    norms = made_in_order(source, keras.layers.BatchNormalization)
    for name, convolution, norm in zip(CONVOLUTIONS, convolutions, norms, strict=True):
        model.get_layer(f"{name}_conv").set_weights(convolution.get_weights())
        ours = model.get_layer(f"{name}_norm")
        for variable, value in zip(
            (ours.beta, ours.moving_mean, ours.moving_variance), norm.get_weights(), strict=True
        ):
            variable.assign(value)


@pytest.mark.parametrize("norm", ["batch_norm", "batch_renorm"])
def test_outputs_are_those_of_keras_applications(reference, norm):
    source, images, expected = reference
    model = make(norm=norm, norm_options={"scale": False}, classifier_activation=None)
    copy_body(model, source)
    model.get_layer("logits").set_weights(source.get_layer("predictions").get_weights())
    for y, keras_y in zip(parts_of(model)(images, training=False), expected, strict=True):
        np.testing.assert_allclose(y, keras_y, rtol=0, atol=1e-5 * np.abs(keras_y).max())


def test_channels_first_without_a_top_and_of_any_size_gives_the_same(reference):
    source, images, (*_, expected, _) = reference
    model = make(
        norm_options={"scale": False},
        input_shape=(3, None, None),
        data_format="channels_first",
        include_top=False,
        pooling="max",
        auxiliary_head=True,
    )
    assert model.output_shape == (None, 2048)
    copy_body(model, source)
    *_, maps, pooled = parts_of(model)(images.transpose(0, 3, 1, 2), training=False)
    bound = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(np.moveaxis(maps, 1, -1), expected, rtol=0, atol=bound)
    np.testing.assert_allclose(pooled, expected.max((1, 2)), rtol=0, atol=bound)


@pytest.fixture(scope="module")
def full_size():
    return zoo.create_model(
        "inception_v3", norm="batch_norm", norm_options={"scale": False}, auxiliary_head=True
    )


def without_auxiliary_head(model):
    return keras.Model(model.input, model.outputs[0])


def test_parameters_and_multiply_adds_are_the_published_ones(full_size, multiply_adds):
    model = without_auxiliary_head(full_size)
    # Keras Applications' own summary, whose batch norm has no gamma.
    assert count(model.weights) == 23_851_784
    # Torchvision's count of its inception_v3, which has gammas and the auxiliary head, and its
    # "GFLOPS" of 5.713, which are multiply-adds without that head.
    convolutions = [la for la in full_size.layers if isinstance(la, keras.layers.Conv2D)]
    gammas = sum(layer.filters for layer in convolutions)
    assert count(full_size.trainable_weights) + gammas == 27_161_264
    assert round(multiply_adds(model) / 1e9, 3) == 5.713


def test_feature_maps_are_the_papers(full_size):
    shapes = {
        name: full_size.get_layer(name).output.shape[1:] for name in BRANCHES if name[0] == "m"
    }
    assert shapes == {
        "mixed0": (35, 35, 256),
        **{f"mixed{i}": (35, 35, 288) for i in (1, 2)},
        **{f"mixed{i}": (17, 17, 768) for i in range(3, 8)},
        "mixed8": (8, 8, 1280),
        **{f"mixed{i}": (8, 8, 2048) for i in (9, 10)},
    }
    assert full_size.get_layer("auxiliary_pool").output.shape[1:] == (5, 5, 768)
    assert full_size.get_layer("auxiliary_1_conv").output.shape[1:] == (5, 5, 128)
    assert full_size.get_layer("auxiliary_2_conv").output.shape[1:] == (1, 1, 768)
    assert [y.shape for y in full_size.outputs] == [(None, 1000)] * 2
    assert full_size.output_names == ["predictions", "auxiliary_predictions"]


def test_names_are_stable(full_size):
    names = [f"{block}_{end}" for block, ends in BRANCHES.items() for end in ends.split()]
    assert list(CONVOLUTIONS) == names
    model = without_auxiliary_head(full_size)
    found = {layer.name for layer in model.layers}
    assert found == OTHERS | {f"{name}_{kind}" for name in names for kind in ("conv", "norm")}


@pytest.mark.parametrize(
    "norm",
    [
        "batch_renorm",
        *(
            pytest.param(norm, marks=pytest.mark.slow)
            for norm in ("batch_norm", "none", keras.layers.BatchNormalization)
        ),
    ],
)
def test_a_step_at_the_least_size(norm):
    model = make(norm=norm, classifier_activation=None)
    before = [weight.numpy() for weight in model.non_trainable_weights]
    with tf.GradientTape() as tape:
        logits = model(make_images((4, 75, 75, 3)), training=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(np.arange(4), logits)
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert np.abs(gradient).max() > 0, weight.path
        assert np.all(np.isfinite(gradient)), weight.path
    for weight, old in zip(model.non_trainable_weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path
    assert all(la.use_bias == (norm == "none") for la in model.layers if "conv" in la.name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_fresh_process_loads_it_with_its_auxiliary_head_without_zoo(tmp_path):
    model = make(107, auxiliary_head=True)
    randomize(model)
    images = make_images((2, 107, 107, 3))
    first, second = model(images, training=False)
    assert np.abs(first - second).max() > 1e-3
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "model.npz", x=images, first=first, second=second)
    command = [sys.executable, "-c", LOAD_AND_PREDICT, str(tmp_path / "model")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("shape", [(106, 200, 3), (None, None, 3)])
def test_images_too_small_for_the_auxiliary_head_are_named(shape):
    message = (
        r"needs images of a known height and width of 107 pixels or more, received "
        rf"input_shape=\({shape[0]}, {shape[1]}, 3\)\. Write auxiliary_head=False"
    )
    with pytest.raises(ValueError, match=message):
        make(input_shape=shape, auxiliary_head=True)


def test_images_must_have_75_pixels():
    with pytest.raises(ValueError, match="inception_v3 must have at least 75 pixels"):
        make(74)
