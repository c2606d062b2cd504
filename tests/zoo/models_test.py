"""What holds for every model of the zoo."""

import functools
import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from keras_renorm import schedules
from zoo.models.registry import MODELS

EVERY_NORM = ["batch_norm", "batch_renorm", "none", "skip_init", keras.layers.BatchNormalization]

#: These take a step: the first of its family with every norm, and with one the deepest, of many
#: blocks, and what has other shortcuts. Inception's tests take a step with every norm themselves.
#: The others have the same blocks, fewer or wider; the tests of their families build them.
#: wide_resnet_1000_2 would take a minute.
ONE_STEP = {
    *("inception_bn", "inception_v3", "resnet110", "resnet152", "resnet152v2"),
    *("small_inception_96", "wide_resnet_16_1", "wide_resnet_100_2"),
}

#: What a fresh process does with saved models: it knows `keras_renorm`, but not `zoo`.
LOAD_AND_PREDICT = """
import sys
import keras, numpy as np
import keras_renorm
assert "zoo" not in sys.modules
for path in sys.argv[1:]:
    model = keras.saving.load_model(path + ".keras")
    data = np.load(path + ".npz")
    np.testing.assert_allclose(model(data["x"], training=False), data["y"], rtol=1e-4, atol=1e-6)
"""


def function_of(architecture):
    build = architecture.build
    return build.func if isinstance(build, functools.partial) else build


def one_of_each_family():
    """The first model of each function that builds models."""
    firsts = {}
    for name, architecture in MODELS.items():
        firsts.setdefault(function_of(architecture), name)
    return list(firsts.values())


#: These have every kind of block among them, and are loaded elsewhere.
EVERY_BLOCK = {*one_of_each_family(), "resnet50"}


def create_tiny(name, norm, size=None, data_format="channels_last", **options):
    """The model for small images.

    On images of 8x8 the gradients of ImageNet's deepest nets overflow, those of Keras's own layers,
    too: from the third stage on a normalization sees two numbers for each channel.
    """
    small = 8 if MODELS[name].input_shape[0] <= 32 else 32
    size = size or max(small, MODELS[name].min_size)
    shape = (3, size, size) if data_format == "channels_first" else (size, size, 3)
    if "auxiliary_head" in inspect.signature(MODELS[name].build).parameters:
        options["auxiliary_head"] = False  # It needs larger images, and has tests of its own.
    if norm == "skip_init":
        # At 0 the branches have no gradient.
        options["norm_options"] = {"initial_value": 0.5}
    return zoo.create_model(
        name, norm=norm, input_shape=shape, num_classes=3, data_format=data_format, **options
    )


def gradients_of(model, images, labels):
    with tf.GradientTape() as tape:
        y = model(images, training=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, y)
    return y, loss, tape.gradient(loss, [w.value for w in model.trainable_weights])


def cases():
    assert MODELS.keys() >= ONE_STEP | EVERY_BLOCK
    for name, architecture in MODELS.items():
        if name not in EVERY_BLOCK | ONE_STEP:
            continue
        for norm in ["batch_renorm"] if name in ONE_STEP else EVERY_NORM:
            if norm == "skip_init" and not architecture.residual:
                continue
            yield pytest.param(name, norm, id=f"{name}-{getattr(norm, '__name__', norm)}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), list(cases()))
def test_a_training_step_reaches_every_weight(name, norm, rng):
    model = create_tiny(name, norm, classifier_activation=None)
    images = rng.uniform(size=(2, *model.input_shape[1:])).astype(np.float32)
    before = [weight.numpy() for weight in model.non_trainable_weights]
    _, loss, gradients = gradients_of(model, images, np.arange(2))
    assert np.isfinite(loss)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        # A normalization may take a bias before it off again.
        assert weight.name == "bias" or np.any(gradient != 0), weight.path
    keras.optimizers.SGD(1.0).apply(gradients, model.trainable_weights)
    for weight in model.weights:
        assert np.all(np.isfinite(weight)), weight.path
    for weight, old in zip(model.non_trainable_weights, before, strict=True):
        assert "seed" in weight.name or np.any(weight.numpy() != old), weight.path


def inference_and_gradients(model, images, factors):
    """The output of inference, and the gradients of a weighted sum of it."""
    with tf.GradientTape() as tape:
        y = model(images, training=False)
        total = tf.reduce_sum(y * factors)
    return [y, *tape.gradient(total, [w.value for w in model.trainable_weights])]


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_family())
def test_channels_first_is_channels_last(name, rng):
    # TensorFlow convolves with the channels first on CPUs in float32 only (oneDNN), where rounding
    # grows to percents of the gradients through the statistics of few numbers. So the gradients
    # are those of inference.
    # After a single step, adaptive limits depend on small differences, and so on rounding.
    limits = {"r_max": schedules.PAPER_R_MAX, "d_max": schedules.PAPER_D_MAX}
    options = {"norm": "batch_renorm", "classifier_activation": None, "dropout_rate": 0.0}
    options["norm_options"] = limits
    size = max(32, MODELS[name].min_size)
    last = create_tiny(name, size=size, **options)
    first = create_tiny(name, size=size, data_format="channels_first", **options)
    assert [layer.name for layer in first.layers] == [layer.name for layer in last.layers]
    first.set_weights(last.get_weights())
    images = rng.uniform(size=(6, size, size, 3)).astype(np.float32)
    transposed = images.transpose(0, 3, 1, 2)
    factors = rng.normal(size=(6, 3)).astype(np.float32)
    results = inference_and_gradients(first, transposed, factors)
    expected = inference_and_gradients(last, images, factors)
    for ours, theirs in zip(results, expected, strict=True):
        assert np.linalg.norm(theirs) > 0
        assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs)
    y = last(images, training=True)
    np.testing.assert_allclose(first(transposed, training=True), y, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(first.non_trainable_weights, last.non_trainable_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=ours.path)


# Keras 3.15 saves its variables through the `__array__` of before NumPy 2.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_fresh_process_loads_models_without_zoo(tmp_path, rng):
    saved = [(name, "batch_renorm") for name in sorted(EVERY_BLOCK)]
    saved += [("wide_resnet_16_2", "skip_init"), ("resnet20", "batch_norm"), ("mlp", "none")]
    paths = []
    for name, norm in saved:
        model = create_tiny(name, norm)
        x = rng.uniform(size=(2, *model.input_shape[1:])).astype(np.float32)
        model(x, training=True)  # So that the statistics differ from a new layer's.
        paths.append(str(tmp_path / f"{name}_{norm}"))
        model.save(f"{paths[-1]}.keras")
        np.savez(f"{paths[-1]}.npz", x=x, y=model(x, training=False))
    command = [sys.executable, "-c", LOAD_AND_PREDICT, *paths]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
