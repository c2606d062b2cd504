import subprocess
import sys

import keras
import numpy as np
import pytest

import zoo
from zoo.models import registry

#: What a fresh process does with a saved model: it knows `keras_renorm`, but not `zoo`.
LOAD_AND_PREDICT = """
import sys
import keras, numpy as np
import keras_renorm
assert "zoo" not in sys.modules
for path in sys.argv[1:]:
    model = keras.saving.load_model(path + ".keras")
    data = np.load(path + ".npz")
    np.testing.assert_allclose(model(data["x"], training=False), data["y"], rtol=1e-5, atol=1e-6)
"""

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
    resnets = ["resnet110", "resnet20", "resnet32", "resnet44", "resnet56"]
    assert zoo.list_models("resnet*") == resnets
    assert zoo.list_models() == ["mlp", *resnets]
    assert zoo.list_models("vgg*") == []


def test_a_new_model_is_one_line(monkeypatch):
    def linear(*, input_shape, num_classes, norm, classifier_activation, name, scale=1.0):
        images = keras.Input(input_shape)
        x = keras.layers.Rescaling(scale)(keras.layers.Flatten()(images))
        return keras.Model(images, keras.layers.Dense(num_classes)(x), name=name)

    monkeypatch.setitem(registry.MODELS, "linear", linear)
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


@saves_a_model
def test_a_fresh_process_loads_models_without_zoo(tmp_path):
    x = np.random.default_rng(1).uniform(size=(2, 8, 8, 2)).astype(np.float32)
    paths = [str(tmp_path / name) for name in ("mlp", "resnet20")]
    for name, path in zip(("mlp", "resnet20"), paths, strict=True):
        model = make_small(name, "batch_renorm")
        randomize_weights(model)
        model.save(f"{path}.keras")
        np.savez(f"{path}.npz", x=x, y=predict(model, x))
    command = [sys.executable, "-c", LOAD_AND_PREDICT, *paths]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


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
            r"Unknown model 'resnet_20'\. Did you mean 'resnet20'\? Known are 'mlp', 'resnet110', "
            r"'resnet20', 'resnet32', 'resnet44', 'resnet56'\.",
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
            r"`input_shape` must be integers of 1 or more, such as \(32, 32, 3\), received 28",
        ),
        ({"name": "mlp", "input_shape": (8, None, 1)}, TypeError, r"received \(8, None, 1\)"),
        ({"name": "mlp", "input_shape": (8, 0, 1)}, ValueError, r"received \(8, 0, 1\)"),
        (
            {"name": "resnet20", "input_shape": (28, 28)},
            ValueError,
            r"`input_shape` of resnet20 must be \(H, W, C\), received \(28, 28\)",
        ),
        (
            {"name": "mlp", "hiden_units": (3,)},
            ValueError,
            r"Unknown option 'hiden_units' for model 'mlp'\. Did you mean 'hidden_units'\? Allowed "
            r"are 'activation', 'classifier_activation', 'hidden_units', 'input_shape', 'norm', "
            r"'norm_options', 'num_classes'\.",
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
