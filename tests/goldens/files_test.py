"""What is saved is loaded: now, in another process, by every later version."""

import os
import pathlib

import keras
import numpy as np
import pytest

import keras_renorm
from goldens import models, write_checkpoints

CHECKPOINTS = pathlib.Path(__file__).with_name("checkpoints")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders of the files of released versions, and of files that were written now."""
    folder = tmp_path_factory.mktemp("now")
    for name in models.MODELS:
        write_checkpoints.write(folder, name)
    return os.pathsep.join(map(str, [CHECKPOINTS, folder]))


def test_fresh_process(run_checks, files):
    run_checks("file_checks.py", GOLDENS_FILES=files)


def test_this_version_has_its_checkpoints():
    folder = CHECKPOINTS / keras_renorm.__version__
    names = {path.name for path in folder.iterdir()}
    suffixes = ".keras", ".weights.h5", ".npz"
    assert names == {f"{name}{suffix}" for name in models.MODELS for suffix in suffixes}


def test_this_version_makes_the_models_of_its_checkpoints():
    """The same configurations and weights: what older files of the version hold."""
    for name, make in models.MODELS.items():
        path = CHECKPOINTS / keras_renorm.__version__ / f"{name}.npz"
        with np.load(path) as file:
            count = sum(key.startswith("outputs/weights/") for key in file)
        assert len(make().weights) == count


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
