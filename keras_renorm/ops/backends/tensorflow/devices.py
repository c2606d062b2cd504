"""Where TensorFlow computes what is done here and now."""

import tensorflow as tf


def accelerator() -> tf.config.PhysicalDevice | None:
    """The first accelerator that is visible, unless a device scope says CPU; else None."""
    devices = [d for kind in ("GPU", "TPU") for d in tf.config.get_visible_devices(kind)]
    if not devices or "CPU" in tf.constant(0.0).device.upper():
        return None
    return devices[0]


def on_gpu() -> bool:
    """Whether it is a GPU."""
    found = accelerator()
    return found is not None and found.device_type == "GPU"
