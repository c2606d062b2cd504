import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import zoo
from zoo.models import registry

#: Keras 3.15 saves its variables through the `__array__` of before NumPy 2.
saves_a_model = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

EVERY_NORM = ["batch_norm", "batch_renorm", "none", keras.layers.BatchNormalization]


def make_small(name, norm, **options):
    return zoo.create_model(name, num_classes=3, input_shape=(8, 8, 2), norm=norm, **options)


def predict(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def randomize_weights(model):
    """Gives every weight, the statistics included, a value that no initializer would."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "float" in str(variable.dtype):
            variable.assign(rng.uniform(0.05, 0.5, variable.shape))


def test_importing_zoo_imports_no_heavy_optional_module():
    # Keras itself imports matplotlib where it is installed, so it is imported first.
    code = (
        "import sys, keras, tensorflow; sys.modules.pop('matplotlib', None); import zoo, zoo.data; "
        "assert not {'tensorflow_datasets', 'matplotlib'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_list_models():
    resnets = [f"resnet{depth}" for depth in (18, 20, 32, 34, 44, 50, 56, 101, 110, 152)]
    resnets_v2 = ["resnet101v2", "resnet152v2", "resnet50v2"]
    sizes = ("16_1", "16_2", "16_4", "16_8", "28_10", "40_4", "100_2", "1000_2")
    wide = [f"wide_resnet_{size}" for size in sizes]
    inceptions = ["inception_bn", "inception_v3", "small_inception_48", "small_inception_96"]
    assert zoo.list_models() == sorted(
        ["mlp", "mlp_sigmoid", *inceptions, *resnets, *resnets_v2, *wide]
    )
    assert zoo.list_models("*v2") == resnets_v2
    assert zoo.list_models("mlp*") == ["mlp", "mlp_sigmoid"]
    assert zoo.list_models("vgg*") == []


def test_models_with_weights():
    found = zoo.list_models(pretrained=True)
    assert {"resnet20", "mlp_sigmoid", "inception_v3", "wide_resnet_16_2"} <= set(found)
    assert not {"mlp", "resnet56", "wide_resnet_16_4"} & set(found)
    assert zoo.list_models("resnet2*", pretrained=True) == ["resnet20"]


@pytest.mark.parametrize("name", [f"small_inception_1{'0' * 310}", f"wide_resnet_16_{'9' * 5001}"])
def test_a_number_that_no_model_has_is_no_name(name):
    with pytest.raises(ValueError, match=r"^Unknown model "):
        zoo.create_model(name)


def test_names_with_other_numbers_are_known_though_not_listed():
    assert "wide_resnet_22_3" not in zoo.list_models()
    model = zoo.create_model("wide_resnet_22_3", input_shape=(8, 8, 1), num_classes=2)
    assert model.name == "wide_resnet_22_3"
    assert model.get_layer("stage3_block3_out").output.shape == (None, 2, 2, 192)
    assert "wide_resnet_22_3" not in zoo.list_models()
    model = zoo.create_model("small_inception_12", input_shape=(8, 8, 1), num_classes=2)
    assert model.get_layer("inception_3b").output.shape == (None, 2, 2, 42)


def test_every_listed_name_of_a_family_follows_its_pattern():
    for name, architecture in registry.MODELS.items():
        if not name.startswith(("small_inception", "wide_resnet")):
            continue
        found = [
            make(*map(int, match.groups()))
            for pattern, make in registry.FAMILIES.items()
            if (match := re.fullmatch(pattern, name))
        ]
        assert [(a.build.func, a.build.keywords) for a in found] == [
            (architecture.build.func, architecture.build.keywords)
        ]


def test_a_new_model_is_one_line(monkeypatch):
    def linear(*, input_shape, norm, head, name, scale=1.0):
        images = keras.Input(input_shape)
        x = keras.layers.Rescaling(scale)(keras.layers.Flatten()(images))
        return keras.Model(images, head(x), name=name)

    monkeypatch.setitem(registry.MODELS, "linear", registry.Architecture(linear))
    assert "linear" in zoo.list_models()
    model = zoo.create_model("linear", num_classes=4, input_shape=(2, 2, 1), scale=2.0)
    assert model.output_shape == (None, 4)
    with pytest.raises(ValueError, match=r"'scal' for model 'linear'\. Did you mean 'scale'\?"):
        zoo.create_model("linear", scal=2.0)


@saves_a_model
@pytest.mark.parametrize("name", ["mlp", "resnet20"])
@pytest.mark.parametrize("norm", EVERY_NORM)
def test_keras_round_trip_and_output(tmp_path, name, norm):
    model = make_small(name, norm)
    randomize_weights(model)
    x = np.random.default_rng(1).uniform(size=(5, 8, 8, 2)).astype(np.float32)
    y = predict(model, x)
    assert model.name == name
    assert y.shape == (5, 3)
    np.testing.assert_allclose(y.sum(axis=1), 1.0, rtol=1e-5)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(predict(loaded, x), y)


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_logits_on_request(name):
    model = make_small(name, "batch_norm", classifier_activation=None)
    probabilities = make_small(name, "batch_norm")
    probabilities.set_weights(model.get_weights())
    x = np.random.default_rng(1).uniform(size=(4, 8, 8, 2)).astype(np.float32)
    exponentials = np.exp(predict(model, x).astype(np.float64))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict(probabilities, x), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"name": "resnet_20"},
            ValueError,
            r"Unknown model 'resnet_20'\. Did you mean 'resnet20'\? Known are 'inception_bn', "
            r"'inception_v3', 'mlp', 'mlp_sigmoid', 'resnet101', .*, 'wide_resnet_40_4'\.",
        ),
        ({"name": "resnet21"}, ValueError, r"Did you mean 'resnet20'\?"),
        (
            {"name": ["mlp"]},
            TypeError,
            r"`name` must be a string such as 'resnet20', received \['mlp'\]\.",
        ),
        ({"name": "mlp", "num_classes": 0}, ValueError, "`num_classes` must be .* received 0"),
        ({"name": "mlp", "num_classes": 2.5}, TypeError, r"`num_classes` must be .* received 2\.5"),
        ({"name": "mlp", "num_classes": True}, TypeError, "`num_classes` must be .* received True"),
        (
            {"name": "mlp", "input_shape": 28},
            TypeError,
            r"`input_shape` must be integers of 1 or more, such as \(28, 28, 1\), received 28",
        ),
        ({"name": "mlp", "input_shape": (8, None, 1)}, TypeError, r"received \(8, None, 1\)"),
        ({"name": "mlp", "input_shape": (8, 0, 1)}, ValueError, r"received \(8, 0, 1\)"),
        (
            {"name": "resnet20", "input_shape": (28, 28)},
            ValueError,
            r"`input_shape` of resnet20 must be \(H, W, C\), with None for a size that varies but "
            r"not for the channels, received \(28, 28\)\.",
        ),
        (
            {"name": "resnet20", "input_shape": (28, 28, None)},
            ValueError,
            r"must be \(H, W, C\), .*, received \(28, 28, None\)\.",
        ),
        (
            {"name": "resnet20", "input_shape": (None, 28, 3), "data_format": "channels_first"},
            ValueError,
            r"must be \(C, H, W\), .*, received \(None, 28, 3\)\.",
        ),
        (
            {"name": "resnet20", "data_format": "channel_first"},
            ValueError,
            r"`data_format` must be one of 'channels_last', 'channels_first', received "
            r"'channel_first'\. Did you mean 'channels_first'\?",
        ),
        ({"name": "mlp", "data_format": ""}, ValueError, r"`data_format` must be .* received ''\."),
        (
            {"name": "mlp", "include_top": False, "pooling": "mean"},
            ValueError,
            r"`pooling` must be one of None, 'avg', 'max', received 'mean'\.",
        ),
        (
            {"name": "mlp", "include_top": "no"},
            ValueError,
            r"`include_top` must be one of True, False, received 'no'\.",
        ),
        (
            {"name": "resnet20", "weights": "fashion_mnist", "norm_options": 0.9},
            TypeError,
            r"`norm_options` must be a mapping or None, received 0\.9",
        ),
        (
            {"name": "mlp", "pooling": "avg"},
            ValueError,
            r"`pooling` is for models without a top, received pooling='avg' with "
            r"include_top=True\. Write include_top=False, or leave it out\.",
        ),
        (
            {"name": "mlp", "dropout_rate": 1.0},
            ValueError,
            r"`dropout_rate` must be a number of at least 0 and below 1, received 1\.0\.",
        ),
        (
            {"name": "mlp", "norm": "skip_init"},
            ValueError,
            r"norm='skip_init' scales residual branches, and this model has none\.",
        ),
        (
            {"name": "mlp", "hiden_units": (3,)},
            ValueError,
            r"Unknown option 'hiden_units' for model 'mlp'\. Did you mean 'hidden_units'\? Allowed "
            r"are 'activation', 'classifier_activation', 'data_format', 'dropout_rate', "
            r"'hidden_units', 'include_top', 'input_shape', 'norm', 'norm_options', "
            r"'num_classes', .*'pooling'",
        ),
        (
            {"name": "resnet20", "depth": 26},
            ValueError,
            r"Unknown option 'depth' for model 'resnet20'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        zoo.create_model(**arguments)


def test_images_must_be_large_enough(monkeypatch):
    picky = registry.Architecture(registry.MODELS["resnet20"].build, residual=True, min_size=9)
    monkeypatch.setitem(registry.MODELS, "picky", picky)
    for shape in ((9, 10, 3), (None, None, 3), (9, None, 1)):
        assert zoo.create_model("picky", input_shape=shape).input_shape == (None, *shape)
    model = zoo.create_model("picky", input_shape=(3, 9, 9), data_format="channels_first")
    assert model.input_shape == (None, 3, 9, 9)
    for shape, layout in (((9, 8, 3), "channels_last"), ((3, 8, 9), "channels_first")):
        message = (
            r"Images of picky must have at least 9 pixels in height and width, received "
            rf"input_shape={re.escape(str(shape))}\."
        )
        with pytest.raises(ValueError, match=message):
            zoo.create_model("picky", input_shape=shape, data_format=layout)


def test_a_size_may_be_unknown(rng):
    model = zoo.create_model("resnet20", input_shape=(None, None, 1), num_classes=3)
    for size in (8, 11):
        y = predict(model, rng.uniform(size=(2, size, size, 1)).astype(np.float32))
        np.testing.assert_allclose(y.sum(axis=1), 1.0, rtol=1e-5)


def test_without_a_top_a_model_ends_with_its_features(rng):
    maps = make_small("resnet20", "batch_renorm", include_top=False)
    assert maps.output_shape == (None, 2, 2, 64)
    assert maps.layers[-1].name == "stage3_block3_out"
    x = rng.uniform(size=(3, 8, 8, 2)).astype(np.float32)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = make_small("resnet20", "batch_renorm", include_top=False, pooling=pooling)
        pooled.set_weights(maps.get_weights())
        expected = reduce(predict(maps, x), axis=(1, 2))
        np.testing.assert_allclose(predict(pooled, x), expected, rtol=1e-5, atol=1e-6)


def test_the_layout_is_that_of_kerass_settings_unless_told():
    try:
        keras.config.set_image_data_format("channels_first")
        assert zoo.create_model("resnet20").input_shape == (None, 3, 32, 32)
        model = zoo.create_model("resnet20", data_format="channels_last")
        assert model.input_shape == (None, 32, 32, 3)
        assert zoo.create_model("mlp_sigmoid").input_shape == (None, 1, 28, 28)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    ("norm", "rate", "expected"),
    [
        ("batch_norm", None, None),
        ("batch_norm", 0.5, 0.5),
        ("none", None, None),
        ("skip_init", None, 0.2),
        ("skip_init", 0, None),
        ("skip_init", 0.6, 0.6),
    ],
)
def test_dropout_stands_before_the_classifier(norm, rate, expected):
    model = make_small("resnet20", norm, dropout_rate=rate)
    dropout = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.rate for layer in dropout] == ([] if expected is None else [expected])
    for layer in dropout:
        assert model.get_layer("logits").input is layer.output
