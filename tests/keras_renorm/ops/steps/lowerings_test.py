import warnings

import keras
import numpy as np
import pytest

from keras_renorm.ops.native import loader
from keras_renorm.ops.steps.lowerings import VARIABLE, lowering

needs_library = pytest.mark.skipif(
    not loader.library_path().is_file() or keras.backend.backend() != "tensorflow",
    reason="needs the native library and TensorFlow",
)
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs TensorFlow"
)


@pytest.fixture(autouse=True)
def unforced(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@needs_library
def test_native_on_the_cpu():
    name, reason = lowering()
    assert name == "native"
    assert reason.endswith("kernels of libkeras_renorm.so")


@pytest.mark.parametrize("name", ["fused", "composite"])
@needs_tensorflow
def test_the_environment_forces_one(monkeypatch, name):
    monkeypatch.setenv(VARIABLE, name)
    assert lowering() == (name, f"KERAS_RENORM_LOWERING={name}")


def test_the_environment_names_none(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"KERAS_RENORM_LOWERING='fast' .* native, fused, compos"):
        lowering()


def test_native_demanded_in_vain(monkeypatch, no_library):
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(RuntimeError, match=r"KERAS_RENORM_LOWERING=native, but the library is not"):
        lowering()


@needs_tensorflow
def test_a_missing_library_is_reported_once(no_library):
    message = r"without its native library.*: the library is not.*KERAS_RENORM_LOWERING=fused if yo"
    with pytest.warns(RuntimeWarning, match=message):
        assert lowering().name == "fused"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lowering().name == "fused"


@needs_tensorflow
def test_composite_asked_for_is_silent(monkeypatch, no_library):
    monkeypatch.setenv(VARIABLE, "composite")
    assert lowering().name == "composite"


@needs_tensorflow
def test_fused_where_it_fits(monkeypatch, chosen):
    monkeypatch.setenv(VARIABLE, "fused")
    x = np.zeros((4, 3), "float32")
    settings = {"axis": 1, "epsilon": 1e-3}
    x = keras.ops.convert_to_tensor(x)
    assert chosen(x, weighted=False, **settings) == "fused"
    assert chosen(x, weighted=True, **settings) == "composite"


@needs_library
def test_a_visible_accelerator_leaves_the_choice_to_the_device_scope(monkeypatch):
    import tensorflow as tf

    devices = tf.config.list_physical_devices("CPU")  # stands in for a GPU
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: devices)

    @tf.function
    def traced(scope):
        with tf.device(scope):
            names.append(lowering().name)

    names = []
    traced("/CPU:0")
    traced(None)
    assert names == ["native", "composite"]
