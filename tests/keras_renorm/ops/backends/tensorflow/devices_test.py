import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's devices", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.backends.tensorflow import devices
from keras_renorm.ops.backends.tensorflow.backend import BACKEND

GPU, TPU = (tf.config.PhysicalDevice(f"/physical_device:{kind}:0", kind) for kind in ("GPU", "TPU"))


@pytest.mark.parametrize("scope", [None, "/CPU:0"])
@pytest.mark.parametrize("visible", [(), (GPU,), (TPU,), (TPU, GPU)], ids=len)
def test_an_accelerator_counts_unless_the_scope_says_cpu(monkeypatch, visible, scope):
    monkeypatch.setattr(
        tf.config, "get_visible_devices", lambda kind: [d for d in visible if d.device_type == kind]
    )
    found = []

    @tf.function
    def traced():
        with tf.device(scope):
            found.extend((devices.accelerator(), devices.on_gpu(), BACKEND.elsewhere))

    traced()
    if scope or not visible:
        assert found == [None, False, "composite"]
    elif GPU in visible:
        assert found == [GPU, True, "fused"]
    else:
        assert found == [TPU, False, "composite"]
