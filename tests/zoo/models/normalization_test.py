import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.schedules import LinearRamp
from zoo.models.normalization import create_normalizer


@pytest.mark.parametrize(
    ("norm", "layer_class"),
    [
        ("batch_norm", layers.BatchNormalization),
        ("batch_renorm", layers.BatchRenormalization),
        (keras.layers.BatchNormalization, keras.layers.BatchNormalization),
    ],
)
def test_options_and_name_reach_the_layer(norm, layer_class):
    normalizer = create_normalizer(norm, {"momentum": 0.5, "dtype": "float64"})
    x = keras.Input((4,))
    layer = keras.Model(x, normalizer(x, "norm1")).get_layer("norm1_norm")
    assert type(layer) is layer_class
    assert layer.momentum == 0.5
    assert layer.compute_dtype == "float64"
    assert not normalizer.use_bias


def test_limits_reach_batch_renormalization():
    x = keras.Input((4,))
    ramp = LinearRamp(1.0, 3.0, start_step=5, end_step=10)
    model = keras.Model(x, create_normalizer("batch_renorm", {"r_max": ramp, "d_max": 1.5})(x, "n"))
    layer = model.get_layer("n_norm")
    assert layer.r_max == ramp
    assert layer.d_max == 1.5


def test_none_adds_nothing():
    normalizer = create_normalizer("none")
    x = keras.Input((4,))
    assert normalizer(x, "norm1") is x
    assert normalizer.use_bias


def test_a_callable_may_choose_by_name():
    def norm(name, epsilon):
        return keras.layers.LayerNormalization(epsilon=epsilon * len(name), name=name)

    x = keras.Input((4,))
    model = keras.Model(x, create_normalizer(norm, {"epsilon": 0.25})(x, "long"))
    assert model.get_layer("long_norm").epsilon == 2.25
    np.testing.assert_allclose(np.mean(model(np.eye(4, dtype="float32")), axis=1), 0, atol=1e-6)


def test_a_callable_that_makes_no_layer_is_refused():
    with pytest.raises(
        TypeError, match=r"must return a keras\.layers\.Layer .* received 'hidden_norm'"
    ):
        create_normalizer(lambda name: name)(keras.Input((4,)), "hidden")


@pytest.mark.parametrize(
    ("norm", "options", "error", "message"),
    [
        (
            "batchnorm",
            None,
            ValueError,
            r"Unknown norm 'batchnorm'\. Did you mean 'batch_norm'\? Allowed are 'batch_norm', "
            r"'batch_renorm', 'none', 'skip_init' and a callable that makes a layer\.",
        ),
        (
            layers.BatchRenormalization(),
            None,
            TypeError,
            r"received the layer <BatchRenormalization .*>: pass the class, BatchRenormalization, "
            r"or a function that makes one, with its arguments in `norm_options`\.",
        ),
        ("batch_norm", {1: 2}, TypeError, r"keys of `norm_options` must be strings, received 1\."),
        (None, None, TypeError, r"received None\. For no normalization write norm='none'"),
        (
            "batch_renorm",
            {"rmax": 3.0},
            ValueError,
            r"Unknown key 'rmax' in `norm_options` for norm='batch_renorm'\. Did you mean 'r_max'\?"
            r" Allowed are .*'d_max'.*'momentum'.*'r_max'",
        ),
        ("batch_norm", {"r_max": 3.0}, ValueError, r"Unknown key 'r_max' .* norm='batch_norm'"),
        (
            "batch_norm",
            {"name": "x"},
            ValueError,
            r"`norm_options` must not hold 'name': a model chooses it for each of its layers\.",
        ),
        ("batch_norm", {"axis": 1}, ValueError, r"must not hold 'axis'"),
        ("batch_norm", {"activation": "relu"}, ValueError, r"must not hold 'activation'"),
        (keras.layers.ReLU, {"name": "x"}, ValueError, r"must not hold 'name'"),
        ("skip_init", {"alpha": 1.0}, ValueError, r"Unknown key 'alpha'.* 'initial_value'"),
        ("none", {"momentum": 0.9}, ValueError, r"takes no `norm_options`, received \{'momentum'"),
        ("batch_norm", 0.9, TypeError, r"`norm_options` must be a mapping or None, received 0\.9"),
    ],
)
def test_bad_arguments_are_named(norm, options, error, message):
    with pytest.raises(error, match=message):
        create_normalizer(norm, options)


def build(norm, shape, activation, data_format="channels_last"):
    x = keras.Input(shape)
    return keras.Model(x, create_normalizer(norm, data_format=data_format)(x, "n", activation))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_the_nonlinearity_is_fused_or_beside(activation, rng):
    gamma, beta, mean = (rng.normal(size=4) for _ in range(3))
    variance = rng.uniform(0.5, 2.0, size=4)
    x = rng.normal(size=(7, 4)).astype(np.float32)
    y = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    expected = np.maximum(y, 0) if activation == "relu" else 1 / (1 + np.exp(-y))
    for norm, names in (
        ("batch_norm", ["n_norm"]),
        ("batch_renorm", ["n_norm"]),
        (layers.BatchNormalization, ["n_norm"]),
        (keras.layers.BatchNormalization, ["n_norm", "n_activation"]),
        (lambda name: layers.BatchNormalization(name=name), ["n_norm", "n_activation"]),
    ):
        model = build(norm, (4,), activation)
        assert [layer.name for layer in model.layers[1:]] == names
        for weight, value in zip(model.weights, (gamma, beta, mean, variance), strict=False):
            weight.assign(value)
        np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-5, atol=1e-6)


def test_without_a_norm_the_nonlinearity_is_all(rng):
    x = rng.normal(size=(7, 4)).astype(np.float32)
    model = build("none", (4,), "relu")
    assert [layer.name for layer in model.layers[1:]] == ["n_activation"]
    np.testing.assert_array_equal(model(x), np.maximum(x, 0))


@pytest.mark.parametrize(
    "norm", ["batch_norm", "batch_renorm", keras.layers.BatchNormalization, "none"]
)
def test_channels_may_come_first(norm, rng):
    x = rng.normal([10.0, 20.0, 30.0], size=(6, 5, 4, 3)).astype(np.float32)
    last = build(norm, (5, 4, 3), "relu")(x, training=True)
    model = build(norm, (3, 5, 4), "relu", "channels_first")
    first = model(x.transpose(0, 3, 1, 2), training=True)
    np.testing.assert_allclose(first, np.transpose(last, (0, 3, 1, 2)), rtol=1e-5, atol=1e-5)
    if norm != "none":
        mean = model.get_layer("n_norm").moving_mean
        share = 1 if norm == "batch_renorm" else 0.01  # adaptive limits forget the initial 0
        np.testing.assert_allclose(mean, share * x.mean(axis=(0, 1, 2)), rtol=1e-4)


def test_branches_are_scaled_only_by_skip_init(rng):
    x = keras.Input((4,))
    for norm in ("batch_norm", "none", keras.layers.BatchNormalization):
        assert create_normalizer(norm).scale_branch(x, "block", 9) is x
    images = rng.normal(size=(2, 4)).astype(np.float32)
    for options, factor in (
        (None, 0.0),
        ({"initial_value": 0.5}, 0.5),
        ({"initial_value": "inverse_sqrt_depth"}, 1 / 3),
    ):
        norm = create_normalizer("skip_init", options)
        assert norm.use_bias
        model = keras.Model(x, norm.scale_branch(x, "block", 9))
        assert model.layers[-1].name == "block_skip_init"
        np.testing.assert_allclose(model(images), factor * images, rtol=1e-6)


def test_a_model_without_branches_refuses_skip_init():
    message = (
        r"norm='skip_init' scales residual branches, and this model has none\. Allowed are "
        r"'batch_norm', 'batch_renorm', 'none' and a callable that makes a layer\."
    )
    with pytest.raises(ValueError, match=message):
        create_normalizer("skip_init", residual=False)
    with pytest.raises(ValueError, match=r"Unknown norm 'skipinit'\. Allowed are 'batch_norm', "):
        create_normalizer("skipinit", residual=False)
