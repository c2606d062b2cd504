import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo

#: The table in the paper's appendix: size of the output, channels of the output, and filters of
#: 1x1, of 3x3 and of two 3x3 (with the 1x1 before them), pooling and the 1x1 after it. The 96 of 4c
#: and 4d are 128 in the paper, which its own channels, 576 and 1024, contradict.
TABLE = """
3a  28   256   64   64  64   64  96  avg   32
3b  28   320   64   64  96   64  96  avg   64
3c  14   576    0  128 160   64  96  max    0
4a  14   576  224   64  96   96 128  avg  128
4b  14   576  192   96 128   96 128  avg  128
4c  14   576  160  128 160  128 160  avg   96
4d  14   576   96  128 192  160 192  avg   96
4e   7  1024    0  128 192  192 256  max    0
5a   7  1024  352  192 320  160 224  avg  128
5b   7  1024  352  192 320  192 224  max  128
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]

#: What the names of the layers were when the first weights were published. They must not change.
CONVOLUTIONS = [
    *("conv1", "conv2_1", "conv2_2"),
    *(
        f"inception_{module}_{branch}"
        for module in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
        for branch in (
            *("1x1", "3x3_1", "3x3_2", "double3x3_1", "double3x3_2", "double3x3_3", "pool"),
        )
        if not (module in ("3c", "4e") and branch in ("1x1", "pool"))
    ),
    *("auxiliary_1", "auxiliary_2"),
]
OTHERS = {
    *("images", "conv1_depthwise", "conv1_pool", "conv2_pool", "pool", "logits", "predictions"),
    *(f"inception_{row[0]}" for row in ROWS),
    *(f"inception_{row[0]}_pool" for row in ROWS),
    *("auxiliary_pool", "auxiliary_flatten", "auxiliary_logits", "auxiliary_predictions"),
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


def make(size=32, norm="batch_renorm", **options):
    options = {"num_classes": 5, "input_shape": (size, size, 3), **options}
    options = {"auxiliary_head": size != 32, **options}
    return zoo.create_model("inception_bn", norm=norm, **options)


def make_images(shape):
    return np.random.default_rng(1).uniform(-1, 1, size=shape).astype(np.float32)


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def randomize(model):
    """Gives weights and statistics values of which no channel's output vanishes or explodes."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        shape = variable.shape
        if "float" not in str(variable.dtype):
            continue
        if len(shape) > 1:
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif variable.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 2.0, shape)
        else:
            value = rng.normal(size=shape) * 0.2
        variable.assign(value)


@pytest.fixture(scope="module")
def full_size():
    return zoo.create_model("inception_bn")


def test_parameters_and_multiply_adds_are_the_published_ones(full_size, multiply_adds):
    # 13.6M: Ioffe & Szegedy 2015, section 4.2. Abadi et al. 2016, TensorFlow, section 6, on the
    # same network: 13.6 million learnable parameters, 2 billion multiply-adds at 224x224.
    assert count(full_size.trainable_weights) == pytest.approx(13.6e6, rel=0.001)
    assert count(full_size.weights) == pytest.approx(13.6e6, rel=0.01)
    assert round(multiply_adds(full_size) / 1e9) == 2


def parameters(rows, first, per_filter):
    """What the table amounts to, with 1000 classes.

    Args:
        rows: Rows of the table.
        first: Weights of the first convolution, without `per_filter`.
        per_filter: What each filter has beside its weights: gamma, beta, bias.
    """
    total = first + 64 * 64 + 9 * 64 * 192 + (64 + 64 + 192) * per_filter
    depth = 192
    for _, _, _, *filters, _, projection in rows:
        conv1x1, reduce, conv3x3, reduce_double, double, projection = map(
            int, (*filters, projection)
        )
        total += depth * (conv1x1 + reduce + reduce_double + projection)
        total += 9 * (reduce * conv3x3 + reduce_double * double + double * double)
        total += per_filter * (conv1x1 + reduce + conv3x3 + reduce_double + 2 * double + projection)
        depth = conv1x1 + conv3x3 + double + (projection or depth)
    return total + depth * 1000 + 1000


def test_parameters_without_auxiliary_head_are_those_of_the_replications(full_size):
    # The one with public weights has a plain 7x7 convolution, 128 channels from the pooling of 4c
    # and 4d, and biases beside gamma and beta: 11,295,240 in pretrained-models.pytorch.
    rows = [[*row[:9], "128"] if row[0] in ("4c", "4d") else row for row in ROWS]
    assert parameters(rows, first=7 * 7 * 3 * 64, per_filter=3) == 11_295_240
    model = keras.Model(full_size.input, full_size.outputs[0])
    separable = 7 * 7 * 3 * 8 + 24 * 64
    assert count(model.trainable_weights) == parameters(ROWS, separable, per_filter=2)


def kernel_of(model, name):
    return tuple(model.get_layer(f"{name}_conv").kernel.shape)


def test_the_beginning_is_the_papers(full_size):
    assert full_size.get_layer("conv1_depthwise").kernel.shape == (7, 7, 3, 8)
    shapes = [kernel_of(full_size, name) for name in ("conv1", "conv2_1", "conv2_2")]
    assert shapes == [(1, 1, 24, 64), (1, 1, 64, 64), (3, 3, 64, 192)]
    names = ("conv1_depthwise", "conv1_pool", "conv2_2_conv", "conv2_pool")
    sizes = [full_size.get_layer(name).output.shape[1:3] for name in names]
    assert sizes == [(112, 112), (56, 56), (56, 56), (28, 28)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_modules_are_the_papers(full_size, row):
    name, pooling = f"inception_{row[0]}", row[8]
    size, depth, conv1x1, reduce, conv3x3, reduce_double, double = map(int, row[1:8])
    projection = int(row[9])
    module, pool = full_size.get_layer(name), full_size.get_layer(f"{name}_pool")
    before = pool.input.shape[-1]
    assert module.output.shape[1:] == (size, size, depth)
    assert kernel_of(full_size, f"{name}_3x3_1") == (1, 1, before, reduce)
    assert kernel_of(full_size, f"{name}_3x3_2") == (3, 3, reduce, conv3x3)
    assert kernel_of(full_size, f"{name}_double3x3_1") == (1, 1, before, reduce_double)
    assert kernel_of(full_size, f"{name}_double3x3_2") == (3, 3, reduce_double, double)
    assert kernel_of(full_size, f"{name}_double3x3_3") == (3, 3, double, double)
    kinds = {"avg": keras.layers.AveragePooling2D, "max": keras.layers.MaxPooling2D}
    assert type(pool) is kinds[pooling]
    assert pool.pool_size == (3, 3)
    if conv1x1:
        assert kernel_of(full_size, f"{name}_1x1") == (1, 1, before, conv1x1)
        assert kernel_of(full_size, f"{name}_pool") == (1, 1, before, projection)
        assert pool.strides == (1, 1)
    else:
        assert module.input[-1] is pool.output
        assert pool.strides == (2, 2)


def test_auxiliary_head(full_size):
    names = ("auxiliary_pool", "auxiliary_1_conv", "auxiliary_2_conv")
    shapes = [full_size.get_layer(name).output.shape[1:] for name in names]
    assert shapes == [(4, 4, 576), (4, 4, 128), (1, 1, 768)]
    assert full_size.get_layer("auxiliary_pool").input is full_size.get_layer("inception_4d").output
    assert [y.shape for y in full_size.outputs] == [(None, 1000)] * 2
    assert full_size.output_names == ["predictions", "auxiliary_predictions"]


def test_names_are_stable(full_size):
    found = {layer.name for layer in full_size.layers}
    assert found == OTHERS | {
        f"{name}_{kind}" for name in CONVOLUTIONS for kind in ("conv", "norm")
    }


@pytest.mark.parametrize("norm", ["batch_renorm", "none"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_every_convolution_has_the_activation(norm, activation):
    model = make(65, norm, activation=activation)
    kind = "norm" if norm == "batch_renorm" else "activation"
    layers = [model.get_layer(f"{name}_{kind}") for name in CONVOLUTIONS]
    assert {layer.activation.__name__ for layer in layers} == {activation}
    anywhere = {layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")}
    assert anywhere == {activation, "linear", "softmax"}


@pytest.mark.parametrize(
    ("norm", "size"),
    [
        ("batch_renorm", 65),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("batch_norm", 32),
                ("batch_renorm", 32),
                ("none", 65),
                (keras.layers.BatchNormalization, 32),
            )
        ),
    ],
)
def test_a_step_at_the_least_size(norm, size):
    model = make(size, norm, classifier_activation=None)
    before = [weight.numpy() for weight in model.non_trainable_weights]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        outputs = model(make_images((4, size, size, 3)), training=True)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        total = tf.add_n([loss(np.arange(4), logits) for logits in outputs])
    assert len(outputs) == (2 if size == 65 else 1)
    gradients = tape.gradient(total, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert np.abs(gradient).max() > 0, weight.path
        assert np.all(np.isfinite(gradient)), weight.path
    for weight, old in zip(model.non_trainable_weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_channels_first_and_a_fresh_process_without_zoo_give_the_same(tmp_path):
    model = make(65)
    randomize(model)
    images = make_images((2, 65, 65, 3))
    first, second = model(images, training=False)
    assert np.abs(first - second).max() > 1e-3

    turned = zoo.create_model(
        "inception_bn", num_classes=5, input_shape=(3, 65, 65), data_format="channels_first"
    )
    turned.set_weights(model.get_weights())
    outputs = turned(images.transpose(0, 3, 1, 2), training=False)
    np.testing.assert_allclose(outputs[0], first, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs[1], second, rtol=1e-4, atol=1e-6)

    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "model.npz", x=images, first=first, second=second)
    command = [sys.executable, "-c", LOAD_AND_PREDICT, str(tmp_path / "model")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_without_a_top_images_may_have_any_size():
    model = make(input_shape=(None, None, 3), include_top=False, auxiliary_head=True)
    assert model.output.shape == (None, None, None, 1024)
    assert model(make_images((1, 33, 65, 3))).shape == (1, 2, 3, 1024)


@pytest.mark.parametrize("size", [64, None])
def test_images_too_small_for_the_auxiliary_head_are_named(size):
    message = (
        r"needs images of a known height and width of 65 pixels or more, received "
        rf"input_shape=\({size}, {size}, 3\)\. Write auxiliary_head=False"
    )
    with pytest.raises(ValueError, match=message):
        make(size, auxiliary_head=True)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="inception_bn must have at least 32 pixels"):
        make(31)
    message = r"`activation` must be one of 'relu', 'sigmoid', received 'sigmod'\. Did you mean"
    with pytest.raises(ValueError, match=message):
        make(activation="sigmod")
