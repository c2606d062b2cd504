import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers


def built(*arguments, **options):
    layer = layers.SkipInit(*arguments, **options)
    layer.build((None, 4))
    return layer


@pytest.mark.parametrize(
    ("arguments", "alpha"),
    [((), 0.0), ((0.3,), 0.3), ((np.float32(2),), 2.0), (("inverse_sqrt_depth", 25), 0.2)],
)
def test_alpha_at_first(arguments, alpha):
    layer = built(*arguments)
    assert [weight.name for weight in layer.trainable_weights] == ["alpha"]
    assert layer.alpha.shape == ()
    np.testing.assert_allclose(layer.alpha, alpha, rtol=1e-7)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 5, 4, 3)])
@pytest.mark.parametrize("jit", [False, True])
def test_output_and_gradients_equal_the_formula(rng, shape, jit):
    layer = built(0.7)
    x, dy = rng.normal(size=shape).astype("f4"), rng.normal(size=shape).astype("f4")

    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, *tape.gradient(y, [x, layer.alpha], output_gradients=dy)

    y, dx, dalpha = tf.function(step, jit_compile=jit)(tf.constant(x), tf.constant(dy))
    alpha = np.float32(0.7).astype("f8")
    np.testing.assert_allclose(y, alpha * x, rtol=1e-6)
    np.testing.assert_allclose(dx, alpha * dy, rtol=1e-6)
    expected = np.sum(x.astype("f8") * dy)
    np.testing.assert_allclose(dalpha, expected, atol=1e-6 * np.abs(x * dy).sum())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_policies_keep_alpha_and_its_gradient_in_float32(rng, dtype):
    layer = layers.SkipInit(0.5, dtype=f"mixed_{dtype}")
    x = tf.constant(rng.uniform(1, 2, (64, 1024)), dtype)
    with tf.GradientTape() as tape:
        y = layer(x)
    gradient = tape.gradient(y, layer.alpha)
    assert layer.alpha.dtype == "float32"
    assert y.dtype.name == dtype
    assert gradient.dtype == tf.float32
    # About 98,000: more than float16 holds, and bfloat16 is coarser than 1e-3.
    np.testing.assert_allclose(gradient, np.sum(x.numpy().astype("f8")), rtol=1e-5)


def test_a_block_that_starts_as_the_identity_learns(rng):
    inputs = keras.Input((6,))
    branch = keras.layers.Dense(6, activation="relu")(inputs)
    outputs = keras.layers.Add()([inputs, layers.SkipInit(name="skip_init")(branch)])
    model = keras.Model(inputs, outputs)
    x = rng.normal(size=(32, 6)).astype("f4")
    np.testing.assert_array_equal(model(x), x)
    before = model.layers[1].get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, 2 * x, batch_size=32, epochs=1, verbose=0)
    # The first step moves alpha alone, the second the branch, too.
    np.testing.assert_array_equal(model.layers[1].get_weights()[0], before[0])
    assert model.get_layer("skip_init").alpha.numpy() != 0
    model.fit(x, 2 * x, batch_size=32, epochs=1, verbose=0)
    assert np.any(model.layers[1].get_weights()[0] != before[0])


@pytest.mark.parametrize("arguments", [(0.0,), (0.4,), ("inverse_sqrt_depth", 9)])
def test_saves_and_loads(rng, tmp_path, arguments):
    layer = layers.SkipInit(*arguments, name="norm")
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.alpha.assign(1.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm").get_config() == layer.get_config()
    x = rng.normal(size=(2, 3))
    np.testing.assert_array_equal(loaded(x), model(x))
    fresh = keras.models.clone_model(model)
    np.testing.assert_array_equal(fresh.get_layer("norm").alpha, built(*arguments).alpha)


def test_a_mask_passes_through(rng):
    x = keras.layers.Masking()(rng.normal(size=(2, 3, 4)))
    assert layers.SkipInit(1.0)(x)._keras_mask is x._keras_mask


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("inverse_sqrt",), ValueError, "a number or 'inverse_sqrt_depth', received 'inverse_sqrt"),
        ((float("nan"),), ValueError, "`initial_value` must be finite, received initial_value=nan"),
        ((None,), TypeError, "`initial_value` must be a number, received None of type NoneType"),
        ((True,), TypeError, "`initial_value` must be a number, received True of type bool"),
        (("inverse_sqrt_depth",), ValueError, "Write SkipInit('inverse_sqrt_depth', depth=9)"),
        (("inverse_sqrt_depth", 0), ValueError, "`depth` must be at least 1, received depth=0"),
        (("inverse_sqrt_depth", 9.0), TypeError, "`depth` must be an integer, the number of"),
        (
            ("inverse_sqrt_depth", "9"),
            TypeError,
            "residual blocks of the net, received '9' of type str",
        ),
        ((0.0, 9), ValueError, "Leave depth out, or write SkipInit('inverse_sqrt_depth', depth=9)"),
    ],
)
def test_refused_arguments(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        layers.SkipInit(*arguments)


@pytest.mark.parametrize("symbolic", [False, True])
def test_integer_inputs_are_refused(symbolic):
    x = keras.Input((3,), dtype="int32") if symbolic else np.zeros((2, 3), "int32")
    with pytest.raises(TypeError, match="`inputs` must be floating point, received dtype int32"):
        layers.SkipInit()(x)


@pytest.mark.parametrize("symbolic", [False, True])
def test_several_inputs_are_refused(symbolic):
    """`convert_to_tensor` would stack them."""
    x = keras.Input((3,)) if symbolic else np.zeros((2, 3), "float32")
    with pytest.raises(TypeError, match="`inputs` must be one tensor, received a list of 2"):
        layers.SkipInit()([x, x])


def test_an_initial_value_that_is_a_tensor_is_refused():
    with pytest.raises(TypeError, match="`initial_value` must be a number, received"):
        layers.SkipInit(keras.ops.convert_to_tensor(0.5))
