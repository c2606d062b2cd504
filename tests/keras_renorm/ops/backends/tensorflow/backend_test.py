import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's backend", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.backends.tensorflow import calls
from keras_renorm.ops.backends.tensorflow.backend import BACKEND
from keras_renorm.ops.backends.tensorflow.runtime import CALLS_VARIABLE
from keras_renorm.ops.native import loader


@pytest.mark.skipif(not loader.library_path().is_file(), reason="the native library is not built")
def test_it_takes_the_library():
    assert BACKEND.native_problem() is None
    assert BACKEND.own_operations_only() is None


def test_what_it_has():
    x = tf.zeros((4, 3))
    assert BACKEND.step_calls(x) is calls
    assert BACKEND.native_passes(tf.zeros((4, 3))) is calls
    assert BACKEND.inference_passes(x, portable=False, demanded=False) is calls
    assert BACKEND.inference_passes(x, portable=True, demanded=True) is None
    assert BACKEND.prefers_plain_passes
    assert BACKEND.synchronizes
    assert BACKEND.elsewhere == "composite"
    assert BACKEND.replicas() is None


def test_an_accelerator_is_elsewhere_unless_the_scope_says_cpu(monkeypatch):
    assert BACKEND.off_cpu() is None
    devices = tf.config.list_physical_devices("CPU")  # stands in for a GPU
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: devices)
    reasons = []

    @tf.function
    def traced(scope):
        with tf.device(scope):
            reasons.append(BACKEND.off_cpu())

    traced("/CPU:0")
    traced(None)
    assert reasons == [None, f"{devices[0].name} is visible and no device scope says CPU"]


def test_what_has_no_gradient_is_computed_by_numpy_unless_an_accelerator_would_wait(monkeypatch):
    def function(pair, ops=keras.ops):
        return ops.sqrt(pair[0]) + pair[1]

    pair = tf.constant(-4.0), tf.constant(3.0)
    found = BACKEND.at_once(function)(pair)  # without NumPy's warning of the root
    assert isinstance(found, np.float32)
    monkeypatch.setattr(type(BACKEND), "off_cpu", lambda self: "a GPU")
    traced = BACKEND.at_once(function)(pair)
    assert tf.is_tensor(traced)
    np.testing.assert_array_equal([found, traced], [np.nan] * 2)


def test_the_environment_is_checked(monkeypatch):
    for value in ("", "xla"):
        monkeypatch.setenv(CALLS_VARIABLE, value)
        BACKEND.native_problem()
    monkeypatch.setenv(CALLS_VARIABLE, "ops")
    with pytest.raises(ValueError, match="KERAS_RENORM_CALLS='ops' must be xla"):
        BACKEND.native_problem()


def test_what_is_traced_and_what_is_of_this_graph():
    x, found = tf.zeros(3), []

    @tf.function
    def traced(inner):
        found.append((BACKEND.is_traced(inner), BACKEND.of_this_graph([inner, x])))
        return inner

    traced(x)
    ((is_traced, copies),) = found
    assert is_traced
    assert all(BACKEND.is_traced(copy) for copy in copies)
    assert not BACKEND.is_traced(x)
    assert not BACKEND.is_traced(1.0)
    assert BACKEND.of_this_graph([x]) == (x,)
