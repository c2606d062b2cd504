import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers

BOTH = [layers.BatchNormalization, layers.BatchRenormalization]
LENGTHS = [2, 0, 5, 1]
IDS = [0, 1, 1, 0]


def ragged(rng, *inner, nested=False):
    """Four examples of different lengths, whose values are not those of a standard layer."""
    rows = tf.RaggedTensor.from_row_lengths(rng.normal(3.0, 2.0, (8, *inner)).astype("f4"), LENGTHS)
    return tf.RaggedTensor.from_row_lengths(rows, [1, 3]) if nested else rows


def padded(rows, mask=None):
    """The same values, dense, and the mask of where they stand."""
    there = tf.sequence_mask(rows.row_lengths())
    return rows.to_tensor(7.0), there if mask is None else there & mask.to_tensor(False)


def twins(make, **options):
    return make(**options), make(**options)


def same_variables(layer, other):
    pairs = zip(layer.variables, other.variables, strict=True)
    for weight, desired in (map(keras.ops.convert_to_numpy, pair) for pair in pairs):
        np.testing.assert_allclose(weight, desired, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("jit", [None, False, True])
def test_a_ragged_batch_is_one_with_its_padding_masked(rng, make, masked, jit):
    rows = ragged(rng, 3)
    mask = rows.with_flat_values(rng.random(8) > 0.3) if masked else None
    layer, dense = twins(make, momentum=0.5)
    call = layer if jit is None else tf.function(layer, jit_compile=jit)
    x, there = padded(rows, mask)
    for _ in range(2):
        for training in (True, False):
            with tf.GradientTape() as tape, tf.GradientTape() as desired_tape:
                values = tf.identity(rows.flat_values)
                tape.watch(values)
                y = call(rows.with_flat_values(values), training=training, mask=mask)
                loss = tf.reduce_sum(
                    tf.where(mask is None or mask.flat_values, 1.0, 0.0)[..., None]
                    * tf.sin(y.flat_values)
                )
                desired_tape.watch(x)
                desired = dense(x, training=training, mask=there)
                desired_loss = tf.reduce_sum(tf.where(there[..., None], tf.sin(desired), 0.0))
            assert y.shape.as_list() == rows.shape.as_list()
            kept = tf.RaggedTensor.from_tensor(desired, lengths=rows.row_lengths()).flat_values
            np.testing.assert_allclose(y.flat_values, kept, rtol=1e-5, atol=1e-5)
            dx = tf.gather_nd(desired_tape.gradient(desired_loss, x), tf.where(padded(rows)[1]))
            np.testing.assert_allclose(tape.gradient(loss, values), dx, rtol=1e-4, atol=1e-5)
    same_variables(layer, dense)


@pytest.mark.parametrize("axis", [-1, 3, 4])
def test_any_axis_behind_the_ragged_ones(rng, axis):
    rows = ragged(rng, 4, 3, nested=True)
    layer, dense = twins(layers.BatchNormalization, axis=axis)
    y = layer(rows, training=True)
    values = dense(rows.flat_values[:, None, None], training=True)[:, 0, 0]
    np.testing.assert_allclose(y.flat_values, values, rtol=1e-6, atol=1e-6)
    same_variables(layer, dense)


def test_channels_along_a_ragged_axis_are_refused(rng):
    rows = tf.RaggedTensor.from_uniform_row_length(rng.normal(size=(8, 3)), 2)
    with pytest.raises(ValueError, match="channels of ragged inputs must come after all ragged ax"):
        layers.BatchNormalization(axis=1)(rows)


def test_keras_and_ours_agree_on_ragged_batches(rng):
    rows = ragged(rng, 3)
    layer, keras_layer = layers.BatchNormalization(), keras.layers.BatchNormalization()
    for training in (True, False):
        y, desired = (one(rows, training=training) for one in (layer, keras_layer))
        np.testing.assert_allclose(y.flat_values, desired.flat_values, rtol=1e-5, atol=1e-5)
    same_variables(layer, keras_layer)


@pytest.mark.parametrize("make", BOTH)
def test_ragged_batches_in_a_model(rng, make):
    rows = ragged(rng, 3)
    inputs = keras.Input((None, 3), ragged=True)
    normalized = make(name="norm", activation="relu")(inputs)
    assert normalized.ragged
    sums = keras.layers.Lambda(lambda x: tf.reduce_sum(x, 1), output_shape=(3,))(normalized)
    model, inner = keras.Model(inputs, sums), keras.Model(inputs, normalized)
    model.compile("sgd", "mse")
    before = model.get_layer("norm").get_weights()
    model.fit(rows, np.ones((4, 3)), batch_size=3, verbose=0, shuffle=False)
    for old, new in zip(before[:4], model.get_layer("norm").get_weights(), strict=False):
        assert np.all(old != new)
    y = inner.predict(rows, batch_size=2, verbose=0)
    desired = model.get_layer("norm")(rows.flat_values[:, None])[:, 0]
    np.testing.assert_allclose(y.flat_values, desired, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("domain", [1, IDS])
def test_each_example_of_a_ragged_batch_has_its_domain(rng, domain):
    rows = ragged(rng, 3)
    layer, dense = twins(layers.DomainBatchNormalization, num_domains=2)
    x, mask = padded(rows)
    for training in (True, False):
        y = layer(rows, training=training, domain=domain)
        desired = dense(x, training=training, mask=mask, domain=domain)
        kept = tf.RaggedTensor.from_tensor(desired, lengths=rows.row_lengths()).flat_values
        np.testing.assert_allclose(y.flat_values, kept, rtol=1e-5, atol=1e-5)
    same_variables(layer, dense)


def test_what_does_not_go_with_ragged_batches(rng):
    rows = ragged(rng, 3)
    with pytest.raises(TypeError, match="The `mask` of ragged inputs must be ragged, too"):
        layers.BatchNormalization()(rows, training=True, mask=padded(rows)[1])
    with pytest.raises(ValueError, match="`virtual_batch_size` is not for ragged inputs, received"):
        layers.BatchNormalization(virtual_batch_size=2)(rows)
    with pytest.raises(ValueError, match="`mask` must have the inputs' shape without its last dim"):
        layers.BatchNormalization()(rows, mask=tf.ragged.constant([[True], [], [True] * 5, [True]]))


@pytest.mark.parametrize("inner", [(3,), (5, 3)])
@pytest.mark.parametrize("nested", [False, True])
def test_the_advice_for_ragged_batches_can_be_pasted(rng, inner, nested):
    rows = ragged(rng, *inner, nested=nested)
    layer, other = twins(functools.partial(layers.BatchNormalization, momentum=0.5))
    with pytest.raises(ValueError, match="Pad them") as caught:
        layers.BatchNormalization(virtual_batch_size=2)(rows)
    dense, mask = (eval(code, {"inputs": rows, "tf": tf}) for code in pasted(caught.value))
    layer(dense, training=True, mask=mask)
    with pytest.raises(TypeError, match="must be ragged, too") as caught:
        layers.BatchNormalization()(rows, mask=mask)
    names = {"inputs": rows, "mask": mask, "tf": tf}
    other(rows, training=True, mask=eval(pasted(caught.value)[-1], names))
    same_variables(layer, other)


def pasted(error):
    """The code in a message, without the names of arguments."""
    return [code for code in re.findall("`([^`]*)`", str(error)) if "(" in code]


@pytest.mark.parametrize("make", BOTH)
def test_sparse_inputs_are_refused(make):
    message = r"`inputs` must be dense or ragged, received a sparse tensor.*sparse=False"
    with pytest.raises(TypeError, match=message):
        make()(tf.sparse.from_dense(np.eye(3, dtype="f4")))
    model = keras.Sequential([keras.Input((3,), sparse=True), make()])
    with pytest.raises(TypeError, match=message):
        model(tf.sparse.from_dense(np.eye(3, dtype="f4")))


@pytest.mark.parametrize("make", BOTH)
def test_what_keras_takes_for_sparse_is_taken(make):
    """A symbolic product with a number says that it is sparse, and is dense."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, make()(keras.ops.sin(2 * inputs)))
    x = np.ones((4, 3), "f4")
    np.testing.assert_allclose(model(x), np.sin(2 * x) / np.sqrt(1.001), rtol=1e-5)


@pytest.mark.parametrize("make", BOTH)
def test_several_inputs_are_refused(make):
    x = np.ones((4, 2), "f4")
    for inputs in ((x,), [x, x], {"x": x}, (keras.Input((2,)),)):
        kind = f"received a {type(inputs).__name__} of {len(inputs)}"
        with pytest.raises(TypeError, match=f"`inputs` must be one tensor, {kind}. Give the layer"):
            make()(inputs)
    built = make()
    built.build((None, 2))
    with pytest.raises(TypeError, match="`inputs` must be one tensor, received a tuple of 1"):
        built((x,))


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("inputs", [None, [], {}])
def test_no_input_is_refused(make, inputs):
    message = "`inputs` must be one tensor, received no tensor, but None or an empty structure"
    with pytest.raises(TypeError, match=message):
        make()(inputs)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("jit", [None, False, True])
def test_training_may_be_a_tensor(rng, make, jit):
    """With the outputs, gradients and weights of the calls with its value."""
    layer, other = twins(make, momentum=0.5)

    def run(layer, x, training):
        with tf.GradientTape() as tape:
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.sin(y))
        return y, *tape.gradient(loss, layer.trainable_variables)

    def compiled(x, training):
        return run(layer, x, training)

    layer.build((None, 3))
    call = compiled if jit is None else tf.function(compiled, jit_compile=jit)
    for training in (True, False, True, True):
        x = rng.normal(2.0, 3.0, (8, 3)).astype("f4")
        found = call(tf.constant(x), tf.constant(training))
        for value, desired in zip(found, run(other, tf.constant(x), training), strict=True):
            np.testing.assert_allclose(value, desired, rtol=1e-5, atol=1e-5)
        same_variables(layer, other)


@pytest.mark.parametrize("lowering", ["native", "fused", "composite"])
@pytest.mark.parametrize(
    "mode",
    [
        "graph",
        pytest.param("jit", marks=pytest.mark.slow),
        pytest.param("jit without the gradient", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("make", "options", "masked"),
    [
        (layers.BatchRenormalization, {"r_max": 2.0, "d_max": 3.0, "activation": "relu"}, False),
        (layers.BatchNormalization, {"virtual_batch_size": 3}, True),
        (functools.partial(layers.DomainBatchRenormalization, 2), {"r_max": 2.0}, True),
    ],
)
def test_training_may_be_a_tensor_beside_sizes_that_are_unknown(
    rng, monkeypatch, lowering, mode, make, options, masked
):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    layer, other = twins(make, momentum=0.5, **options)
    kernel = tf.constant(rng.normal(size=(3, 3)).astype("f4"))
    domain = {"domain": 1} if "Domain" in type(layer).__name__ else {}

    def loss(layer, x, mask, training):
        # XLA has the gradient of the product for known sizes only.
        y = layer(x @ kernel, training=training, mask=mask if masked else None, **domain)
        return tf.reduce_sum(tf.where(mask[..., None], tf.sin(y), 0.0))

    def run(loss, layer, x, mask, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(layer, x, mask, training)
        return value, *tape.gradient(value, [x, *layer.trainable_variables])

    layer.build((None, None, 3))
    signature = [tf.TensorSpec([None, None, 3])]
    signature += [tf.TensorSpec([None, None], tf.bool), tf.TensorSpec([], tf.bool)]

    def compiled(function):
        return tf.function(function, input_signature=signature, jit_compile=mode != "graph")

    if mode == "jit without the gradient":
        inner = compiled(functools.partial(loss, layer))
        call = functools.partial(run, lambda layer, *given: inner(*given), layer)
    else:
        call = compiled(functools.partial(run, loss, layer))
    for training, rows in ((True, 8), (False, 8), (True, 5)):
        x = tf.constant(rng.normal(2.0, 3.0, (rows, 4, 3)).astype("f4"))
        mask = tf.constant(rng.random((rows, 4)) > 0.2)
        found = call(x, mask, tf.constant(training))
        for value, desired in zip(found, run(loss, other, x, mask, training), strict=True):
            np.testing.assert_allclose(value, desired, rtol=2e-5, atol=2e-5)
        same_variables(layer, other)


def test_training_as_a_tensor_on_what_is_frozen_or_scheduled(rng):
    from keras_renorm.schedules import LinearRamp

    ramp = LinearRamp(1.0, 3.0, start_step=0, end_step=10)
    x = tf.constant(rng.normal(2.0, 3.0, (8, 3)).astype("f4"))
    layer = layers.BatchRenormalization(r_max=ramp, d_max=0.0)
    call = tf.function(lambda training: layer(x, training=training))
    for training in (True, True, False):
        call(tf.constant(training))
    assert layer.current_limits().r_max == pytest.approx(1.4)
    layer.trainable = False
    before = layer.get_weights()
    tf.function(lambda training: layer(x, training=training))(tf.constant(True))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


ONE_TENSOR = {
    "bn": layers.BatchNormalization,
    "brn": layers.BatchRenormalization,
    "domains": functools.partial(layers.DomainBatchRenormalization, 2),
    "skip": layers.SkipInit,
}
EVERY = ONE_TENSOR | {
    "shuffle": layers.CrossReplicaShuffle,
    "unshuffle": layers.CrossReplicaUnshuffle,
}


@pytest.mark.parametrize("dtype", ["int32", "int8", "bool", "string", tf.uint8, np.int64])
@pytest.mark.parametrize("made", ONE_TENSOR.values(), ids=ONE_TENSOR)
def test_types_in_which_nothing_is_normalized_are_refused(made, dtype):
    with pytest.raises(ValueError, match=r"`dtype` must be floating .*; received .*dtype='float32"):
        made(dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16", keras.DTypePolicy("float64")])
@pytest.mark.parametrize("made", ONE_TENSOR.values(), ids=ONE_TENSOR)
def test_types_of_floating_point_are_taken(made, dtype):
    assert "float" in made(dtype=dtype).compute_dtype


@pytest.mark.parametrize("shape", [None, 3, "abc", (None, -3), (None, "a"), (None, 2.5), {}])
@pytest.mark.parametrize("made", EVERY.values(), ids=EVERY)
def test_what_is_no_shape_is_named(made, shape):
    if shape == {} and made not in ONE_TENSOR.values():
        return  # no tensor, and no shape
    one = made in ONE_TENSOR.values()
    what = r"the shape of one tensor.*\(None, 8\)" if one else r"a shape, such as \(None, 8\), or"
    with pytest.raises(TypeError, match=f"`input_shape` must be {what}"):
        made().compute_output_shape(shape)


@pytest.mark.parametrize("made", ONE_TENSOR.values(), ids=ONE_TENSOR)
def test_the_arguments_of_a_config_make_a_layer(made):
    """Its `dtype` is a policy's configuration."""
    config = made(dtype="mixed_bfloat16").get_config()
    config.pop("num_domains", None)
    assert made(**config).compute_dtype == "bfloat16"


def test_training_may_be_a_tensor_of_unknown_rank(rng):
    layer = layers.BatchNormalization()
    layer.build((None, 3))
    call = tf.function(
        lambda x, training: layer(x, training=training),
        input_signature=[tf.TensorSpec((8, 3)), tf.TensorSpec(None, "bool")],
    )
    x = rng.normal(2.0, 3.0, (8, 3)).astype("f4")
    np.testing.assert_allclose(call(x, True), layer(x, training=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [3, "abc", (None, -3)])
def test_nothing_is_built_for_what_is_no_shape(shape):
    with pytest.raises(TypeError, match="`input_shape` must be the shape of one tensor"):
        layers.BatchNormalization().build(shape)


@pytest.mark.parametrize("training", ["yes", np.ones(3, "bool")])
def test_what_is_no_training_is_named(rng, training):
    with pytest.raises(TypeError, match=r"`training` must be True, False or None, or a scalar"):
        layers.BatchNormalization()(rng.normal(size=(4, 3)), training=training)
