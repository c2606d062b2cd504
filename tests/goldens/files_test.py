"""The files of released versions are there; `processes_test.py` loads them."""

import pathlib

import keras
import numpy as np

import keras_renorm
from goldens import models

CHECKPOINTS = pathlib.Path(__file__).with_name("checkpoints")


def test_this_version_has_its_checkpoints():
    folder = CHECKPOINTS / keras_renorm.__version__
    names = {path.name for path in folder.iterdir()}
    suffixes = ".keras", ".weights.h5", ".npz"
    assert names == {f"{name}{suffix}" for name in models.MODELS for suffix in suffixes}


def test_this_version_makes_the_models_of_its_checkpoints():
    """The same configurations, and as many weights."""
    for name, make in models.MODELS.items():
        path = CHECKPOINTS / keras_renorm.__version__ / f"{name}.npz"
        with np.load(path) as file:
            count = sum(key.startswith("outputs/weights/") for key in file)
        made = make()
        assert len(models.kept(made)) == count
        loaded = keras.saving.load_model(path.with_suffix(".keras"))
        for one, other in zip(made.layers, loaded.layers, strict=True):
            # Keras numbers the names of a process.
            configs = [layer.get_config() | {"name": ""} for layer in (one, other)]
            assert configs[0] == configs[1], (name, type(one).__name__)


def test_every_layer_has_a_model():
    layers = {
        type(layer).__name__
        for make in models.MODELS.values()
        for layer in make().layers
        if isinstance(layer, keras.layers.Layer)
    }
    public = {
        name
        for name in keras_renorm.layers.__all__
        if issubclass(getattr(keras_renorm.layers, name), keras.layers.Layer)
    }
    assert public <= layers
