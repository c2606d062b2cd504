"""What differs between TensorFlow, JAX and PyTorch, behind one typed interface.

`current()` is the backend that Keras runs on. Nothing outside this folder asks for its name.
"""

import functools
import importlib
from typing import cast

import keras

from keras_renorm.ops.backends.interface import Backend, PlainBackend

__all__ = ["Backend", "current"]

_KNOWN = ("tensorflow", "jax", "torch")


def current() -> Backend:
    """The backend that Keras runs on; of one without a folder here, plain operations only."""
    return _of(keras.backend.backend())


@functools.cache
def _of(name: str) -> Backend:
    if name not in _KNOWN:
        return PlainBackend(name)
    module = importlib.import_module(f"keras_renorm.ops.backends.{name}.backend")
    return cast(Backend, module.BACKEND)
