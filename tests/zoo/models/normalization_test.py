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
    layer = keras.Model(x, normalizer(x, "norm1")).get_layer("norm1")
    assert type(layer) is layer_class
    assert layer.momentum == 0.5
    assert layer.compute_dtype == "float64"
    assert not normalizer.use_bias


def test_limits_reach_batch_renormalization():
    x = keras.Input((4,))
    ramp = LinearRamp(1.0, 3.0, start_step=5, end_step=10)
    model = keras.Model(x, create_normalizer("batch_renorm", {"r_max": ramp, "d_max": 1.5})(x, "n"))
    layer = model.get_layer("n")
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
    assert model.get_layer("long").epsilon == 1.0
    np.testing.assert_allclose(np.mean(model(np.eye(4, dtype="float32")), axis=1), 0, atol=1e-6)


def test_a_callable_that_makes_no_layer_is_refused():
    with pytest.raises(TypeError, match=r"must return a keras\.layers\.Layer .* received 'hidden'"):
        create_normalizer(lambda name: name)(keras.Input((4,)), "hidden")


@pytest.mark.parametrize(
    ("norm", "options", "error", "message"),
    [
        (
            "batchnorm",
            None,
            ValueError,
            r"Unknown norm 'batchnorm'\. Did you mean 'batch_norm'\? Allowed are 'batch_norm', "
            r"'batch_renorm', 'none' and a callable that makes a layer\.",
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
        ("batch_norm", {"name": "x"}, ValueError, r"Unknown key 'name' in `norm_options`"),
        (keras.layers.ReLU, {"name": "x"}, ValueError, r"must not hold 'name'"),
        ("none", {"momentum": 0.9}, ValueError, r"takes no `norm_options`, received \{'momentum'"),
        ("batch_norm", 0.9, TypeError, r"`norm_options` must be a mapping or None, received 0\.9"),
    ],
)
def test_bad_arguments_are_named(norm, options, error, message):
    with pytest.raises(error, match=message):
        create_normalizer(norm, options)
