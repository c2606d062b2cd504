"""Where TensorFlow computes here and now."""

import tensorflow as tf


def accelerator() -> tf.config.PhysicalDevice | None:
    """The first visible accelerator, or None. A device scope that says CPU hides it."""
    devices = [d for kind in ("GPU", "TPU") for d in tf.config.get_visible_devices(kind)]
    if not devices or "CPU" in tf.constant(0.0).device.upper():
        return None
    return devices[0]


def on_gpu() -> bool:
    """Whether TensorFlow computes on a GPU."""
    found = accelerator()
    return found is not None and found.device_type == "GPU"
