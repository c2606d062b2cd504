"""Weights, inputs, layers and comparisons that the tests of several modules use."""

import keras
import numpy as np
import pytest

from keras_renorm import convert, layers


def _randomised(model):
    """Weights that keep positive what must be so."""
    values = np.random.default_rng(1)
    model.set_weights([values.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    return model


def _spread(model):
    """Statistics and weights far from those of a new model, but of its order."""
    values = np.random.default_rng(1)
    for variable in model.weights:
        if "moving_variance" in variable.path or "gamma" in variable.path:
            variable.assign(values.uniform(0.5, 2.0, variable.shape))
        elif "kernel" in variable.path:
            # Some initializers have a deviation of 0.05. With this the outputs are of order 1.
            fan_in = np.prod(variable.shape) / variable.shape[-1]
            variable.assign(values.normal(0.0, fan_in**-0.5, variable.shape))
        else:
            variable.assign(values.normal(0.0, 1.0, variable.shape))
    return model


def _sample(model, seed=0):
    values = np.random.default_rng(seed)
    shapes = [tuple(size or 6 for size in x.shape) for x in model.inputs]
    arrays = [values.normal(0.5, 2.0, shape).astype("f4") for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def _stack(*parts, shape):
    """A Sequential model called "net"."""
    return _spread(keras.Sequential([keras.Input(shape), *parts], name="net"))


def _folded(model):
    """The folded model and the report, after a comparison of their outputs."""
    reports = []
    before = model.get_weights()
    new_model = convert.fold(model, report=reports.append)
    x = _sample(model)
    for actual, desired in zip(
        keras.tree.flatten(new_model(x)), keras.tree.flatten(model(x)), strict=True
    ):
        assert actual.dtype == desired.dtype
        assert np.std(desired) > 0.1
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)
    for actual, desired in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, desired)
    return new_model, reports[0]


def _norms(model):
    """The batch norms of a model, Keras's and ours."""
    kinds = layers.BatchNormalization, keras.layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]


def _notes(report):
    """The notes of a report by the names of the layers."""
    return {c.layer.split("/")[-1]: c.note for c in report.replaced + report.kept}


@keras.saving.register_keras_serializable("convert_tests")
class Holder(keras.layers.Wrapper):
    """A layer that calls the one that it is given."""

    def call(self, x):
        return self.layer(x)


@pytest.fixture
def randomised():
    return _randomised


@pytest.fixture
def spread():
    return _spread


@pytest.fixture
def sample():
    return _sample


@pytest.fixture
def stack():
    return _stack


@pytest.fixture
def folded():
    return _folded


@pytest.fixture
def norms():
    return _norms


@pytest.fixture
def notes():
    return _notes


@pytest.fixture
def holder():
    return Holder
