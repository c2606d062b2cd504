import functools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers, ops
from keras_renorm.ops import reference

BOTH = [layers.BatchNormalization, layers.BatchRenormalization]


def randomise(layer, rng):
    """Gives a built layer weights that are neither zeros nor ones."""
    size = layer.moving_mean.shape[0]
    layer.moving_mean.assign(rng.normal(size=size))
    layer.moving_variance.assign(rng.uniform(0.5, 4.0, size))
    if layer.gamma is not None:
        layer.gamma.assign(rng.normal(1.0, 0.3, size))
    if layer.beta is not None:
        layer.beta.assign(rng.normal(size=size))


def step(layer, x, dy, mask=None):
    """One training step's output and gradients in x and the trainable weights."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
    return y, tape.gradient(y, [x, *layer.trainable_variables], output_gradients=dy)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": False}, {"center": False}, {"axis": 1, "momentum": 0.5, "epsilon": 0.1}],
)
def test_trains_as_keras_does(rng, options):
    ours, keras_layer = (
        layers.BatchNormalization(**options),
        keras.layers.BatchNormalization(**options),
    )
    shape = (8, 5, 6, 4)
    for layer in (ours, keras_layer):
        layer.build(shape)
    randomise(ours, rng)
    keras_layer.set_weights(ours.get_weights())
    for _ in range(5):
        x, dy = (rng.normal(1.0, 2.0, shape).astype("float32") for _ in range(2))
        (y, gradients), (keras_y, keras_gradients) = step(ours, x, dy), step(keras_layer, x, dy)
        np.testing.assert_allclose(y, keras_y, atol=1e-5)
        for actual, desired in zip(gradients, keras_gradients, strict=True):
            np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-4)
    for actual, desired in zip(ours.get_weights(), keras_layer.get_weights(), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours(x), keras_layer(x), atol=1e-5)
    assert [w.name for w in ours.weights] == [w.name for w in keras_layer.weights]


def test_masks_as_keras_does(rng):
    ours, keras_layer = layers.BatchNormalization(), keras.layers.BatchNormalization()
    x = rng.normal(1.0, 2.0, (8, 5, 4)).astype("float32")
    mask = rng.random((8, 5)) > 0.3
    np.testing.assert_allclose(
        ours(x, training=True, mask=mask), keras_layer(x, training=True, mask=mask), atol=1e-5
    )
    np.testing.assert_allclose(ours.moving_mean, keras_layer.moving_mean, atol=1e-6)
    np.testing.assert_allclose(ours.moving_variance, keras_layer.moving_variance, atol=1e-6)


@pytest.mark.parametrize("layer_class", BOTH)
def test_a_mask_from_keras_reaches_the_layer(rng, layer_class):
    x = rng.normal(1.0, 2.0, (6, 5, 4)).astype("float32")
    x[:, 3:] = 0
    layer = layer_class(momentum=0.0)
    model = keras.Sequential([keras.layers.Masking(), layer])
    model(x, training=True)
    mean, variance, _ = reference.moments(x[:, :3])
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-4)


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
@pytest.mark.parametrize("channels_first", [True, False])
def test_ranks_and_axes(rng, layer_class, rank, channels_first):
    shape = (6, 4, 3, 5, 2)[:rank]
    axis = 1 if channels_first else -1
    x = rng.normal(3.0, 2.0, shape).astype("float32")
    y = layer_class(axis=axis, epsilon=1e-9)(x, training=True)
    others = tuple(i for i in range(rank) if i != axis % rank)
    np.testing.assert_allclose(np.mean(y, others), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, others), 1, atol=1e-4)


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize("x", [np.zeros((0, 3), "f4"), np.full((4, 3), np.nan, "f4")])
def test_a_batch_without_positions_changes_no_weight_and_yields_no_nan(rng, layer_class, x):
    layer = layer_class()
    layer.build(x.shape)
    randomise(layer, rng)
    before = layer.get_weights()
    mask = np.zeros(4, bool) if len(x) else None
    _, gradients = step(layer, x, tf.ones_like(x), mask)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize("layer_class", BOTH)
def test_one_nan_shows_and_spares_the_moving_statistics(rng, layer_class):
    x = rng.normal(size=(8, 3)).astype("float32")
    x[2, 1] = np.nan
    layer = layer_class()
    y = layer(x, training=True)
    assert np.isnan(y.numpy()[:, 1]).all()
    assert layer.moving_mean.numpy()[1] == 0
    assert layer.moving_variance.numpy()[1] == 1
    assert np.isfinite(layer.get_weights()[2]).all()
    assert layer.moving_mean.numpy()[0] != 0


@pytest.mark.parametrize("layer_class", BOTH)
def test_loops_that_keep_keras_norms_frozen_keep_ours_frozen(rng, layer_class):
    """The loop of Keras's guides: everything is trained but the norms."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), layer_class()])
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    before = [np.copy(weight) for weight in model.layers[1].get_weights()]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(rng.normal(3.0, 2.0, (32, 4)), rng.normal(size=(32, 3)), verbose=0)
    for weight, old in zip(model.layers[1].get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert [weight.name for weight in model.trainable_weights] == ["kernel", "bias"]


def test_what_reads_renorm_of_keras_layer_finds_it():
    assert layers.BatchRenormalization().renorm is True
    assert layers.BatchNormalization().renorm is False


@pytest.mark.parametrize("layer_class", BOTH)
def test_a_frozen_layer_runs_in_inference_mode(rng, layer_class):
    layer = layer_class(trainable=False)
    layer.build((4, 3))
    randomise(layer, rng)
    before = layer.get_weights()
    x = rng.normal(size=(4, 3)).astype("float32")
    inference = layer(x, training=False)
    np.testing.assert_allclose(layer(x, training=True), inference, rtol=1e-6, atol=1e-6)
    assert layer.trainable_weights == []
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("layer_class", BOTH)
def test_nothing_of_a_masked_position_reaches_a_frozen_layers_gradients(rng, layer_class):
    layer = layer_class(frozen_statistics=True)
    layer.build((4, 6, 3))
    randomise(layer, rng)
    x = rng.normal(size=(4, 6, 3)).astype("float32")
    mask = rng.random((4, 6)) < 0.6
    for masked in (x, np.where(mask[..., None], x, np.float32(np.nan))):
        with tf.GradientTape() as tape:
            y = layer(masked, training=True, mask=mask)
            loss = tf.reduce_sum(tf.where(mask[..., None], y**2, 0))
        gradients = tape.gradient(loss, [layer.gamma, layer.beta])
        np.testing.assert_array_equal(np.isnan(y), np.isnan(masked))
        if masked is x:
            desired = gradients
    np.testing.assert_allclose(gradients, desired, rtol=1e-6)


@pytest.mark.parametrize("options", [{"trainable": False}, {"frozen_statistics": True}])
def test_only_training_takes_operations_of_the_native_library(options):
    """Frozen, too. What is exported is inference, and needs no library."""
    if ops.lowering().name != "native":
        pytest.skip("the native library is not in use")
    layer = layers.BatchNormalization(activation="relu", **options)
    layer.build((None, 3, 3, 4))
    signature = tf.TensorSpec([None, 3, 3, 4])
    for training in (True, False):
        call = functools.partial(layer, training=training)
        graph = tf.function(call).get_concrete_function(signature).graph
        kinds = {operation.type for operation in graph.get_operations()}
        assert ("KerasRenormNormalize" in kinds) == training
        assert ("FusedBatchNormV3" in kinds) != training


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float64", "float16", "bfloat16"]
)
def test_dtype_policies(rng, layer_class, policy):
    limits = {} if layer_class is layers.BatchNormalization else {"r_max": 1.0, "d_max": 0.0}
    layer = layer_class(dtype=policy, **limits)
    x = rng.normal(1.0, 2.0, (64, 3))
    y = layer(x, training=True)
    assert y.dtype == layer.compute_dtype
    assert layer.moving_variance.dtype == ("float64" if policy == "float64" else "float32")
    exact = np.asarray(tf.cast(tf.cast(x, layer.compute_dtype), "float64"))
    mean, variance, _ = reference.moments(exact)
    rtol = 1e-9 if policy == "float64" else 1e-3
    np.testing.assert_allclose(layer.moving_mean, 0.01 * mean, rtol=rtol)
    desired = (exact - mean) / np.sqrt(variance + 1e-3)
    atol = {"float64": 1e-9, "mixed_bfloat16": 2e-2, "bfloat16": 2e-2}.get(policy, 2e-3)
    np.testing.assert_allclose(tf.cast(y, "float64"), desired, atol=atol)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_float16_near_its_limit_keeps_its_statistics(policy):
    layer = layers.BatchNormalization(momentum=0.0, dtype=policy)
    x = np.array([[6e4], [-6e4]] * 3, "float16")
    np.testing.assert_array_equal(layer(x, training=True), np.sign(x))
    np.testing.assert_allclose(layer.moving_variance, np.float64(x[0, 0]) ** 2, rtol=1e-6)


@pytest.mark.parametrize("layer_class", BOTH)
def test_activation_is_applied_to_the_output(rng, layer_class):
    x = rng.normal(size=(8, 3)).astype("float32")
    plain, relu = layer_class(), layer_class(activation="relu")
    for training in (True, False):
        np.testing.assert_array_equal(
            relu(x, training=training), np.maximum(plain(x, training=training), 0)
        )
    assert layer_class.from_config(relu.get_config()).activation is keras.activations.relu


@pytest.mark.parametrize("layer_class", BOTH)
def test_regularizers_and_constraints(layer_class):
    layer = layer_class(
        beta_regularizer="l2",
        gamma_regularizer=keras.regularizers.L1(0.5),
        gamma_constraint="non_neg",
    )
    layer(np.ones((2, 3), "f4"))
    assert len(layer.losses) == 2
    assert float(sum(layer.losses)) == pytest.approx(1.5)
    assert layer.gamma.constraint is not None


@pytest.mark.parametrize("layer_class", BOTH)
def test_the_configuration_holds_what_differs_from_the_defaults(layer_class):
    base = {"name", "trainable", "dtype"}
    if layer_class is layers.BatchRenormalization:
        base |= {"r_max", "d_max"}
    assert set(layer_class().get_config()) == base
    options = {"axis": 1, "momentum": 0.9, "gamma_initializer": "zeros", "activation": "relu"}
    layer = layer_class(**options)
    config = layer.get_config()
    assert set(config) == base | set(options)
    assert layer_class.from_config(config).get_config() == config
    json.dumps(config)


class Fast(layers.BatchNormalization):
    def __init__(self, **kwargs):
        super().__init__(**({"momentum": 0.9} | kwargs))


def test_the_configuration_of_a_subclass_with_other_defaults_keeps_every_value():
    assert Fast.from_config(Fast(momentum=0.99).get_config()).momentum == 0.99
    assert Fast.from_config(Fast().get_config()).momentum == 0.9


def test_an_unknown_number_of_channels_is_the_layers(rng):
    x = rng.normal(size=(8, 4)).astype("f4")
    layer, other = layers.BatchNormalization(), layers.BatchNormalization()
    layer.build((None, 4))
    run = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, None])]
    )
    np.testing.assert_allclose(run(x), other(x, training=True), atol=1e-6)


def test_a_keras_configuration_makes_our_layer():
    config = keras.layers.BatchNormalization(axis=1, momentum=0.9, name="bn").get_config()
    layer = layers.BatchNormalization.from_config(config)
    assert (layer.axis, layer.momentum, layer.name) == (1, 0.9, "bn")


def test_every_argument_of_keras_has_its_name_and_default():
    import inspect

    ours = inspect.signature(layers.BatchNormalization.__init__).parameters
    theirs = inspect.signature(keras.layers.BatchNormalization.__init__).parameters
    for position, (name, parameter) in enumerate(theirs.items()):
        assert name in ours
        assert ours[name].default == parameter.default
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert list(ours)[position] == name


def test_a_weights_file_of_a_keras_model_loads(rng, tmp_path):
    theirs, ours = (
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), layer])
        for layer in (keras.layers.BatchNormalization(), layers.BatchNormalization())
    )
    x = rng.normal(size=(8, 4)).astype("f4")
    theirs(x, training=True)
    theirs.save_weights(tmp_path / "bn.weights.h5")
    ours.load_weights(tmp_path / "bn.weights.h5")
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-6)


LOAD = """
import sys, numpy, keras, keras_renorm
folder = sys.argv[1]
model = keras.saving.load_model(folder + "/model.keras")
numpy.save(folder + "/loaded.npy", model.predict(numpy.load(folder + "/x.npy"), verbose=0))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layer_class", BOTH)
def test_a_model_loads_in_a_fresh_process(rng, layer_class, tmp_path):
    x = rng.normal(size=(32, 6, 4)).astype("float32")
    model = keras.Sequential(
        [keras.Input((6, 4)), layer_class(activation="relu"), keras.layers.Dense(2), layer_class()]
    )
    model.compile("sgd", "mse")
    model.fit(x, rng.normal(size=(32, 6, 2)), verbose=0)
    np.save(tmp_path / "x.npy", x)
    model.save(tmp_path / "model.keras")
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True, timeout=120)
    np.testing.assert_allclose(
        np.load(tmp_path / "loaded.npy"), model.predict(x, verbose=0), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("size", [8, 20])
def test_a_ghost_that_holds_the_minibatch_changes_no_bit(rng, layer_class, size, mode):
    layers_ = [layer_class(), layer_class(virtual_batch_size=size)]
    x, dy = (tf.constant(rng.normal(size=(8, 5, 4)), "float32") for _ in range(2))
    results = []
    for layer in layers_:
        layer.build(x.shape)
        run = step if mode == "eager" else tf.function(step, jit_compile=mode == "jit")
        for _ in range(3):
            y, gradients = run(layer, x, dy)
        results.append([y, *gradients, *layer.get_weights()])
    for plain, ghost in zip(*results, strict=True):
        np.testing.assert_array_equal(ghost, plain)


@pytest.mark.parametrize("layer_class", BOTH)
def test_ghosts_of_a_batch_of_unknown_size(rng, layer_class):
    """As in `fit`, whose last minibatch is smaller: ghosts of 4, then of 4 and 2, of 1, of none."""
    limits = {} if layer_class is layers.BatchNormalization else {"r_max": 1.5, "d_max": 0.5}
    options = {"virtual_batch_size": 4, "momentum": 0.5, **limits}
    known, unknown = (layer_class(**options) for _ in range(2))
    for layer in (known, unknown):
        layer.build((None, 3))
    signature = [tf.TensorSpec([None, 3])]
    run = tf.function(lambda x: unknown(x, training=True), input_signature=signature)
    for rows in (8, 6, 1, 0):
        x = rng.normal(2.0, 3.0, (rows, 3)).astype("f4")
        np.testing.assert_array_equal(run(x), known(x, training=True))
    for actual, desired in zip(unknown.get_weights(), known.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_the_moving_statistics_average_the_ghosts(rng):
    layer = layers.BatchNormalization(virtual_batch_size=4, momentum=0.9)
    x = rng.normal(2.0, 3.0, (10, 5, 3)).astype("f4")
    mask = rng.random((10, 5)) > 0.3
    y = layer(x, training=True, mask=mask)
    moments = []
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        mean, variance, count = reference.moments(
            x[rows], np.broadcast_to(mask[rows, :, None], x[rows].shape)
        )
        moments.append((mean, variance, count))
        np.testing.assert_allclose(y[rows], (x[rows] - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    means, variances, counts = np.stack(moments, axis=1)
    weights = counts / counts.sum(0)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * (weights * means).sum(0), rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance, 0.9 + 0.1 * (weights * variances).sum(0), rtol=1e-5
    )


@pytest.mark.parametrize("layer_class", BOTH)
def test_ghosts_save_and_load(rng, layer_class, tmp_path):
    assert "virtual_batch_size" not in layer_class().get_config()
    layer = layer_class(virtual_batch_size=np.int64(3))
    assert layer_class.from_config(layer.get_config()).virtual_batch_size == 3
    json.dumps(layer.get_config())
    model = keras.Sequential([keras.Input((6, 4)), layer, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x, y = rng.normal(size=(14, 6, 4)), rng.normal(size=(14, 6, 2))
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].virtual_batch_size == 3
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    np.testing.assert_allclose(loaded.train_on_batch(x, y), model.train_on_batch(x, y), rtol=1e-5)


def test_ghosts_where_the_channels_are_first_are_refused_when_that_is_known():
    layer = layers.BatchNormalization(axis=-2, virtual_batch_size=2)
    with pytest.raises(ValueError, match="received virtual_batch_size=2 with the channels on axis"):
        layer.build((4, 3))
    layer.build((4, 3, 5))


def test_synchronized_is_local_outside_a_strategy(rng):
    x = rng.normal(size=(8, 3)).astype("float32")
    np.testing.assert_array_equal(
        layers.BatchNormalization(synchronized=True)(x, training=True),
        layers.BatchNormalization()(x, training=True),
    )


BAD_ARGUMENTS = {
    "momentum above": ({"momentum": 1.5}, r"`momentum` must be in \[0, 1\], received momentum=1.5"),
    "momentum below": ({"momentum": -0.1}, r"`momentum` must be in \[0, 1\]"),
    "momentum nan": ({"momentum": float("nan")}, r"`momentum` must be in \[0, 1\]"),
    "momentum text": ({"momentum": "0.9"}, "`momentum` must be a number, received '0.9'"),
    "epsilon negative": ({"epsilon": -1}, "`epsilon` must be finite and greater than 0"),
    "epsilon zero": ({"epsilon": 0.0}, "`epsilon` must be finite and greater than 0"),
    "axis list": ({"axis": [1, 2]}, r"`axis` must be one integer, received \[1, 2\]"),
    "center": ({"center": "no"}, "`center` must be True or False, received 'no' of type str"),
    "ghosts": ({"virtual_batch_size": 0}, "`virtual_batch_size` must be at least 1, received vir"),
    "ghosts text": ({"virtual_batch_size": "4"}, "`virtual_batch_size` must be an integer or None"),
    "ghosts bool": ({"virtual_batch_size": True}, "received True of type bool"),
    "ghosts of all": (
        {"virtual_batch_size": 4, "synchronized": True},
        "give one of them, received virtual_batch_size=4, synchronized=True",
    ),
    "ghosts of channels": (
        {"virtual_batch_size": 4, "axis": 0},
        "the batch must be the first axis, received virtual_batch_size=4 with the channels on axis",
    ),
    "mean initializer": (
        {"moving_mean_initializer": None},
        "`moving_mean_initializer` must be an initializer, .* received None. Leave it out for the",
    ),
    "variance initializer": (
        {"moving_variance_initializer": None},
        "`moving_variance_initializer` must be an initializer, .* write e.g. 'zeros'",
    ),
    "axis fraction": ({"axis": 1.0}, "`axis` must be one integer, received 1.0 of type float"),
}


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_named(layer_class, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        layer_class(**options)


X = np.zeros((4, 5, 3), "float32")
BAD_CALLS = {
    "axis": ({"axis": 5}, (X,), {}, r"`axis` must lie in \[-3, 2\].*received axis=5"),
    "rank": ({}, (X[0, 0],), {}, "`inputs` must have at least two dimensions"),
    "integers": ({}, (X.astype("int32"),), {}, "`inputs` must be floating point.*int32"),
    "mask rank": (
        {},
        (X,),
        {"mask": np.ones((4, 5, 3), bool)},
        r"`mask` must have the inputs' shape without its last dimension, that is \(4, 5\)",
    ),
    "mask size": ({}, (X,), {"mask": np.ones((4, 4), bool)}, r"Received a mask of shape \(4, 4\)"),
    "mask list": ({}, (X,), {"mask": [[True] * 4] * 4}, r"Received a mask of shape \(4, 4\)"),
    "mask scalar": ({}, (X,), {"mask": True}, r"Received a mask of shape \(\)"),
    "one channel": (
        {"axis": 1},
        (X[:, :1],),
        {"mask": np.ones((4, 1, 3), bool)},
        "`mask` must have the inputs' shape without",
    ),
}


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize(
    ("options", "inputs", "call_options", "message"), BAD_CALLS.values(), ids=BAD_CALLS
)
@pytest.mark.parametrize("training", [True, False])
def test_bad_calls_are_named(layer_class, options, inputs, call_options, message, training):
    layer = layer_class(**options)
    with pytest.raises((TypeError, ValueError), match=message):
        layer(*inputs, training=training, **call_options)


@pytest.mark.parametrize("layer_class", BOTH)
def test_bad_symbolic_inputs_are_named(layer_class):
    with pytest.raises(TypeError, match="`inputs` must be floating point, received dtype int32"):
        layer_class()(keras.Input((3,), dtype="int32"))
    with pytest.raises(ValueError, match=r"Received a mask of shape \(None, 5\)"):
        layer_class()(keras.Input((6, 3)), mask=keras.Input((5,), dtype="bool"))
    with pytest.raises(ValueError, match="channels, must be known"):
        layer_class()(keras.Input((None,)))
    with pytest.raises(ValueError, match=r"`axis` must lie in \[-2, 1\]"):
        layer_class(axis=3)(keras.Input((3,)))


def test_renorm_points_to_the_other_layer():
    with pytest.raises(
        ValueError, match=r"BatchRenormalization\(.*renorm_clipping=\{'rmax': 3.0\}"
    ):
        layers.BatchNormalization(renorm=True, renorm_clipping={"rmax": 3.0})


def test_a_single_channel_with_a_mask(rng):
    # Keras's layer squeezes the channel away here and fails with an IndexError.
    x = rng.normal(size=(4, 1, 5)).astype("float32")
    mask = np.ones((4, 1), bool)
    layer = layers.BatchNormalization(axis=1)
    y = layer(x, training=True, mask=mask)
    np.testing.assert_allclose(np.mean(y), 0, atol=1e-6)
