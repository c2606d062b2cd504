"""Keras's own tests of its batch norm, from the installed package, with our layer in its place.

It leaves out those of `renorm=` alone, which is a layer of its own here.
"""

import types

import keras
import pytest

# Not part of Keras's public interface: read here only, for the test cases.
from keras.src.layers.normalization import batch_normalization_test as keras_tests

from keras_renorm import layers

# Keras's test harness warns so of any layer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning"),
]

ABOUT_RENORM = {
    "test_renorm_basics",
    "test_renorm_correctness",
    "test_renorm_inference",
    "test_renorm_invalid_clipping_keys",
    "test_renorm_stddev_initializer",
    "test_serialization",  # of renorm=True
}


@pytest.fixture(autouse=True)
def our_layer(monkeypatch):
    namespace = types.SimpleNamespace(**vars(keras.layers))
    namespace.BatchNormalization = layers.BatchNormalization
    monkeypatch.setattr(keras_tests, "layers", namespace)


class KerasTest(keras_tests.BatchNormalizationTest):
    """The cases that remain; pytest collects a unittest class by its base."""


for _name in ABOUT_RENORM:
    setattr(KerasTest, _name, None)


def test_the_cases_are_there():
    names = {name for name in dir(KerasTest) if name.startswith("test_")}
    kept = {name for name in names if getattr(KerasTest, name) is not None}
    assert {"test_bn_basics", "test_trainable_behavior", "test_input_fully_masked0"} <= kept
    assert len(kept) >= 25
