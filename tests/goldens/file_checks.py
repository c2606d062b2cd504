"""Loads saved models in a process that did not save them: `processes_test.py` says which.

Under TensorFlow, the kernels are those that computed what is stored beside the files, and all bits
must be the same. Elsewhere the numbers must be the same.
"""

import os
import pathlib

import keras
import numpy as np
import pytest

import keras_renorm
from goldens import models, running

FILES = sorted(
    path
    for folder in os.environ["GOLDENS_FILES"].split(os.pathsep)
    for path in pathlib.Path(folder).rglob("*.keras")
)
pytestmark = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}"
)


def assert_as_stored(model, path):
    with np.load(path.with_suffix(".npz")) as file:
        stored = dict(file)
    inputs = {k.removeprefix("inputs/"): v for k, v in stored.items() if k.startswith("inputs/")}
    same = (
        keras.backend.backend() == "tensorflow"
        and keras_renorm.ops.lowering().reason == stored["kernels"]
    )
    for name, value in models.computed(model, inputs).items():
        expected = stored[f"outputs/{name}"]
        if same:
            np.testing.assert_array_equal(value, expected, err_msg=name)
        else:
            running.assert_close(value, expected, 1e-6, name)


def test_model(path):
    assert_as_stored(keras.saving.load_model(path), path)


def test_weights(path):
    model = keras.saving.load_model(path)
    for weight in models.kept(model):
        weight.assign(np.zeros(weight.shape))
    model.load_weights(path.with_suffix(".weights.h5"))
    assert_as_stored(model, path)
