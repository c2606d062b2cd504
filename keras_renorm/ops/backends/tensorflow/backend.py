"""TensorFlow."""

from typing import Any

import keras

from keras_renorm.ops.backends.interface import PlainBackend


class TensorFlow(PlainBackend):
    """See `keras_renorm.ops.backends.interface.Backend`."""

    synchronizes = True

    def is_traced(self, x: Any) -> bool:
        """Whether `x` is a tensor of a graph."""
        return keras.ops.is_tensor(x) and not hasattr(x, "numpy")


BACKEND = TensorFlow("tensorflow", "TensorFlow")
