import keras
import numpy as np
import pytest

from zoo.weights.hdf5 import StoredLayer
from zoo.weights.matching import plan


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Conv2D(2, 1, use_bias=False, name="stem_conv"),
            keras.layers.BatchNormalization(name="stem_norm"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(5, name="logits"),
        ]
    )


@pytest.fixture
def stored(model, rng):
    """The layers of a file that fits, with values of its own."""
    return {
        layer.name: StoredLayer(
            tuple(rng.uniform(1.0, 2.0, w.shape).astype(np.float32) for w in layer.weights)
        )
        for layer in model.layers
        if layer.weights
    }


def test_each_variable_gets_the_array_in_its_place(model, stored):
    found = plan(model, stored)
    assert (found.problems, found.fresh, found.unused, found.folded) == ((), (), (), ())
    assert found.layers == ("stem_conv", "stem_norm", "logits")
    arrays = [array for layer in stored.values() for array in layer.weights]
    assert [variable.path for variable, _ in found.assignments] == [w.path for w in model.weights]
    for (_, read), array in zip(found.assignments, arrays, strict=True):
        np.testing.assert_array_equal(read(), array)


def test_a_bias_before_a_normalization_goes_into_its_mean(model, stored):
    kernel, bias = stored["stem_conv"].weights[0], np.array([0.25, 0.5], np.float32)
    mean = stored["stem_norm"].weights[2]
    found = plan(model, stored | {"stem_conv": StoredLayer((kernel, bias))})
    assert (found.problems, found.folded) == ((), ("stem_conv",))
    [moved] = [read() for variable, read in found.assignments if variable.name == "moving_mean"]
    np.testing.assert_allclose(moved, mean - bias, rtol=1e-6)


def test_another_number_of_classes_leaves_the_head_fresh(model, stored):
    head = StoredLayer((np.zeros((2, 7), np.float32), np.zeros(7, np.float32)))
    found = plan(model, stored | {"logits": head})
    assert (found.problems, found.fresh) == ((), ("logits",))


def test_what_does_not_fit_is_named(model, stored):
    del stored["stem_norm"]
    found = plan(model, stored | {"extra": StoredLayer((np.zeros(1),))})
    assert found.unused == ("extra",)
    assert found.problems == (
        "stem_norm: the model has it, the file does not",
        "extra: the file has it, the model does not",
    )
