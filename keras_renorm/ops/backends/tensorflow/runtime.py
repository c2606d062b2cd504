"""How a call of the library becomes an op, by what is private in TensorFlow.

Graphs and eager programs run the library's own ops. XLA knows none of these, so a trace for XLA
holds a StableHLO module instead, which calls the library through XLA's FFI. A call becomes one of
the two when it is traced, so a function that was traced outside XLA cannot be compiled later. The
environment variable `KERAS_RENORM_CALLS=xla` makes every call a module.

Nothing else in the package imports private modules of TensorFlow or looks into its libraries.
"""

import ctypes
import functools
import os
import struct
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.eager import context, execute, forwardprop_util
from tensorflow.python.framework import op_def_library, op_def_registry, ops
from tensorflow.python.ops import control_flow_util

from keras_renorm.ops.native import loader

MODULE_VERSION = 9
"""The version of XlaCallModule's calling convention that the modules follow."""

CALLS_VARIABLE = "KERAS_RENORM_CALLS"
"""Set this environment variable to `xla` to make every call a module."""

_FRAMEWORK = "libtensorflow_framework.so.2"
_FOR_XLA = (_FRAMEWORK, "libtensorflow_cc.so.2")
"""TensorFlow's libraries that may hold XLA's FFI: the first on x86, the second on ARM."""

_OP_PREFIX = "KerasRenorm"

_GET_API = "_ZN3xla3ffi12GetXlaFfiApiEv"  # xla::ffi::GetXlaFfiApi()


def _path(name: str) -> str:
    """Returns the path of one of TensorFlow's own libraries."""
    return os.path.join(tf.sysconfig.get_lib(), name)


def _ffi_api() -> int:
    """Returns the address of the FFI interface of the XLA inside TensorFlow."""
    problems = []
    for name in _FOR_XLA:
        try:
            library = ctypes.CDLL(_path(name), mode=os.RTLD_NOW | os.RTLD_NOLOAD)
            get_api = getattr(library, _GET_API)
        except (OSError, AttributeError) as error:
            problems.append(str(error))
            continue
        get_api.restype = ctypes.c_void_p
        return int(get_api())
    raise loader.NativeLibraryError(
        f"TensorFlow {tf.__version__} does not show its XLA FFI ({'; '.join(problems)})"
    )


@loader.once
def register() -> loader.NativeLibrary:
    """Makes the library's calls known to TensorFlow and its XLA, once per process.

    Raises:
        NativeLibraryError: The library does not load, or this TensorFlow does not take it.
    """
    library = loader.load()
    _register_handlers(library)
    _register_ops(library)
    return library


def _register_handlers(library: loader.NativeLibrary) -> None:
    """Makes the library's handlers known to the XLA inside TensorFlow."""
    api = _ffi_api()
    version_of = library.handle.keras_renorm_ffi_version_of
    version_of.argtypes = [ctypes.c_void_p]
    loader.check_ffi(f"TensorFlow {tf.__version__}", version_of(api))
    take = library.handle.keras_renorm_register
    take.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    take.restype = ctypes.c_bool
    for name, handler in loader.handlers().items():
        if not take(api, name.encode(), ctypes.cast(handler, ctypes.c_void_p)):
            raise loader.NativeLibraryError(
                f"TensorFlow {tf.__version__} does not take the handler {name}"
            )


def _register_ops(library: loader.NativeLibrary) -> None:
    """Makes ops of the library's calls, through TensorFlow's C interface."""
    known = [name for name in map(_op_name, loader.HANDLERS) if _definition_of(name)]
    if known:
        raise loader.NativeLibraryError(
            f"this process has the op {known[0]} already, of another copy of the native library"
        )
    register_ops = library.handle.keras_renorm_register_ops
    register_ops.argtypes = [ctypes.c_char_p]
    register_ops.restype = ctypes.c_char_p
    missing = register_ops(_path(_FRAMEWORK).encode())
    if missing is not None:
        raise loader.NativeLibraryError(
            f"TensorFlow {tf.__version__} does not take the library's ops: it lacks "
            f"{missing.decode()}"
        )
    for name in loader.HANDLERS:
        tf.no_gradient(_op_name(name))  # see _no_gradient


_definition_of = op_def_registry.get


@functools.wraps(_definition_of)
def _registering_definition_of(name: str) -> Any:
    if name.startswith(_OP_PREFIX):
        loader.problem(register)
    return _definition_of(name)


# TensorFlow calls this for each op of a graph or SavedModel that it reads, before it makes any. The
# op may be one of the library's, even if this process has built no layer.
op_def_registry.get = _registering_definition_of


def _threads_of_the_environment() -> int:
    """Returns TF_NUM_INTRAOP_THREADS, or 0 where that is no number, as TensorFlow does."""
    try:
        return max(int(os.environ.get("TF_NUM_INTRAOP_THREADS", "0")), 0)
    except ValueError:
        return 0


@functools.cache
def _set_threads() -> None:
    """Gives the ops as many threads as TensorFlow's own. Call it before the first op runs."""
    threads = (
        tf.config.threading.get_intra_op_parallelism_threads()
        or _threads_of_the_environment()
        or len(os.sched_getaffinity(0))
    )
    set_threads = register().handle.keras_renorm_set_threads
    set_threads.argtypes = [ctypes.c_int64]
    set_threads(threads)


def for_xla(*operands: tf.Tensor) -> bool:
    """Whether a call here and now must be a module that XLA compiles.

    It must in a function that is traced for XLA (`jit_compile=True`), and where an operand comes
    from a module: XLA compiles the gradient of such a function, too, but it is traced outside.

    Raises:
        ValueError: The environment variable KERAS_RENORM_CALLS has a value other than `xla`.
    """
    if always_for_xla():
        return True
    modules = (tf.is_symbolic_tensor(o) and o.op.type == "XlaCallModule" for o in operands)
    return any(modules) or in_compiled()


def in_compiled() -> bool:
    """Whether a function is traced here and now that XLA compiles (`jit_compile=True`)."""
    return bool(control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))


def has_tangents(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a `tf.autodiff.ForwardAccumulator` here and now differentiates any of the tensors."""
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)


def always_for_xla() -> bool:
    """Whether the environment variable asks for modules everywhere.

    Raises:
        ValueError: The variable has a value other than `xla`.
    """
    value = os.environ.get(CALLS_VARIABLE, "")
    if value not in ("", "xla"):
        raise ValueError(
            f"The environment variable {CALLS_VARIABLE}={value!r} must be xla, for calls that XLA "
            "compiles everywhere, or unset, for ops of TensorFlow where nothing is compiled."
        )
    return value == "xla"


def _op_name(name: str) -> str:
    """The op of a call: KerasRenormInputGradient for input_gradient."""
    return _OP_PREFIX + name.title().replace("_", "")


def _bits(value: float) -> int:
    """A float as the integer of its bits. An op's float attribute would keep only 24 of them."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def call_op(
    name: str,
    operands: Sequence[tf.Tensor],
    dtypes: Sequence[tf.DType],
    shapes: Sequence[tf.TensorShape],
    attributes: dict[str, bool | int | float],
) -> list[tf.Tensor]:
    """Runs one of the library's ops.

    Args:
        name: The call's name, as in `loader.HANDLERS`.
        operands: The operands.
        dtypes: The types of the results.
        shapes: The shapes of the results, as far as they are known.
        attributes: All attributes.

    Returns:
        The results.
    """
    _set_threads()
    settings = {k: _bits(v) if isinstance(v, float) else v for k, v in attributes.items()}
    if not tf.executing_eagerly():
        results: Any = op_def_library.apply_op(
            _op_name(name), operands=list(operands), Tout=list(dtypes), **settings
        )
        for result, shape in zip(results, shapes, strict=True):
            result.set_shape(shape)
        return list(results)
    types = {"Tin": [operand.dtype for operand in operands], "Tout": list(dtypes)}
    enums = {key: tuple(t.as_datatype_enum for t in value) for key, value in types.items()}
    flat = tuple(part for pair in (enums | settings).items() for part in pair)
    found: Any = execute.execute(
        _op_name(name), len(dtypes), inputs=list(operands), attrs=flat, ctx=context.context()
    )
    return list(found)


def call_module(
    operands: Sequence[tf.Tensor],
    module: str,
    dtypes: Sequence[tf.DType],
    shapes: Sequence[tf.TensorShape],
) -> list[tf.Tensor]:
    """Runs a StableHLO module on the CPU.

    Args:
        operands: The arguments of the module's `@main`.
        module: The module's text.
        dtypes: The types of the results.
        shapes: The shapes of the results, as far as they are known.

    Returns:
        The results of `@main`.
    """
    with ops.get_default_graph().gradient_override_map({"XlaCallModule": _NO_GRADIENT}):
        results: Any = xla.call_module(
            operands,
            version=MODULE_VERSION,
            module=module,
            Tout=dtypes,
            Sout=shapes,
            platforms=("CPU",),
        )
    return list(results)


_NO_GRADIENT = "KerasRenormNoGradient"


@tf.RegisterGradient(_NO_GRADIENT)
def _no_gradient(op: tf.Operation, *_: tf.Tensor | None) -> list[None]:
    """The gradient of a call: none, as a custom gradient around the call has all derivatives.

    TensorFlow asks for it where a traced function is differentiated twice, or forwards. Then a
    call's results that the function's gradient reads are outputs of the function, too.
    """
    return [None] * len(op.inputs)
