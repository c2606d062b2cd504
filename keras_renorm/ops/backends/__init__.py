"""What differs between TensorFlow, JAX and PyTorch, behind one typed interface.

`current()` is the backend that Keras runs on. Nothing outside this folder asks for its name.
"""

import importlib
import importlib.util

import keras

from keras_renorm.ops.backends.interface import Backend

__all__ = ["Backend", "current"]

# Not `functools.cache`: PyTorch's compiler warns of it, and traces every call until
# `own_operations_only` can tell.
_MADE: dict[str, Backend] = {}


def current() -> Backend:
    """The backend that Keras runs on: plain operations only if it has no folder here."""
    name = keras.backend.backend()
    if name not in _MADE:
        _MADE[name] = _make(name)
    return _MADE[name]


def _make(name: str) -> Backend:
    package = f"{__name__}.{name}"
    if importlib.util.find_spec(package) is None:
        return Backend(name)
    return importlib.import_module(f"{package}.backend").BACKEND
