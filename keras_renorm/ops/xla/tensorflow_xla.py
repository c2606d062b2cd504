"""All that is private in TensorFlow and needed here: XLA's FFI registry and the op that calls it.

Nothing else in the package imports `tensorflow.compiler` or looks into TensorFlow's libraries.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from keras_renorm.ops.xla import loader

MODULE_VERSION = 9
"""Version of XlaCallModule's calling convention in which the modules here are written."""

_FRAMEWORK = "libtensorflow_framework.so.2"
_GET_API = "_ZN3xla3ffi12GetXlaFfiApiEv"  # xla::ffi::GetXlaFfiApi()


def _ffi_api() -> int:
    """Returns the address of the FFI interface of the XLA inside TensorFlow."""
    path = os.path.join(tf.sysconfig.get_lib(), _FRAMEWORK)
    try:
        get_api = getattr(ctypes.CDLL(path), _GET_API)
    except (OSError, AttributeError) as error:
        raise loader.NativeLibraryError(
            f"TensorFlow {tf.__version__} does not show its XLA FFI ({error})"
        ) from error
    get_api.restype = ctypes.c_void_p
    return int(get_api())


@functools.cache
def register() -> loader.NativeLibrary:
    """Makes the library's handlers known to TensorFlow, once per process.

    Raises:
        NativeLibraryError: The library does not load, or this TensorFlow does not take it.
    """
    library = loader.load()
    api = _ffi_api()
    take = library.handle.keras_renorm_register
    take.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    take.restype = ctypes.c_bool
    for name, handler in loader.handlers().items():
        if not take(api, name.encode(), ctypes.cast(handler, ctypes.c_void_p)):
            raise loader.NativeLibraryError(
                f"TensorFlow {tf.__version__} does not take the handler {name}: the library's "
                "XLA FFI is of another version"
            )
    return library


def call_module(
    operands: Sequence[tf.Tensor],
    module: str,
    dtypes: Sequence[tf.DType],
    shapes: Sequence[tf.TensorShape],
) -> list[tf.Tensor]:
    """Runs a StableHLO module on the CPU.

    Args:
        operands: Arguments of the module's `@main`.
        module: The module's text.
        dtypes: Types of its results.
        shapes: Shapes of its results, as far as they are known.

    Returns:
        The results of `@main`.
    """
    results: Any = xla.call_module(
        operands,
        version=MODULE_VERSION,
        module=module,
        Tout=dtypes,
        Sout=shapes,
        platforms=("CPU",),
    )
    return list(results)
