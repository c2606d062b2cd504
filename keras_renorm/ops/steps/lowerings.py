"""Which of the three implementations computes the normalisation, chosen here and nowhere else.

native     the C++ kernels of `ops.native`: on the CPU, where their library loads
fused      TensorFlow's fused batch norm (`ops.fused`), or PyTorch's (`ops.torch_fused`): where the
           library does not load; under TensorFlow where an exported model may not need it, and
           under PyTorch on other devices and where it compiles
composite  the formulas in plain operations: every type, rank, backend and device

All three give the same numbers, but for rounding, of which `fused` has the most. The choice falls
when an operation is called, which in a `tf.function` is when it is traced. Inference is native in
PyTorch's eager programs only: elsewhere it is fused where that fits, or composite.
"""

import functools
import math
import os
import warnings
from types import ModuleType
from typing import Any, Literal, NamedTuple

import keras

from keras_renorm.ops.native import loader

Name = Literal["native", "fused", "composite"]

NAMES: tuple[Name, ...] = ("native", "fused", "composite")

# Values from which on inference under PyTorch is faster by a call of the library than in plain
# operations: what makes a call differentiable takes 0.1 ms, forwards and backwards together.
_LARGE = 1 << 19

VARIABLE = "KERAS_RENORM_LOWERING"
"""The environment variable that forces one of `NAMES`."""


class Lowering(NamedTuple):
    """A choice.

    Attributes:
        name: native, fused or composite.
        reason: Why this one, in words.
    """

    name: Name
    reason: str


def forced() -> Name | None:
    """Returns the lowering that the environment variable names, or None.

    Raises:
        ValueError: It names none.
    """
    value = os.environ.get(VARIABLE, "")
    if value and value not in NAMES:
        raise ValueError(
            f"The environment variable {VARIABLE}={value!r} names no lowering. Set it to one of "
            f"{', '.join(NAMES)}, or unset it."
        )
    return next((name for name in NAMES if name == value), None)


@functools.cache
def _native_problem(backend: str) -> str | None:
    """Returns why the native library cannot be used with a backend, or None where it can."""
    try:
        if backend == "tensorflow":
            from keras_renorm.ops.backends.tensorflow import runtime as tensorflow_runtime

            tensorflow_runtime.register()
        elif backend == "jax":
            from keras_renorm.ops.backends.jax import calls as jax_calls

            jax_calls.register()
        elif backend == "torch":
            from keras_renorm.ops.backends.torch import operators as torch_operators

            torch_operators.register()
        else:
            return f"the native library does not serve the {backend} backend"
    except (loader.NativeLibraryError, ImportError) as error:
        return str(error)
    return None


def register() -> None:
    """Makes the native library known to the backend, if it loads: a SavedModel may hold its ops."""
    if os.environ.get(VARIABLE, "") in ("", "native"):
        _native_problem(keras.backend.backend())


@functools.cache
def _warn_once(problem: str) -> None:
    """Warns of a missing library, once per process."""
    warnings.warn(
        f"keras_renorm computes without its native library, which is slower: {problem}. Set "
        f"{VARIABLE}=composite to say that this is meant.",
        RuntimeWarning,
        stacklevel=2,
    )


def _off_cpu(backend: str) -> str | None:
    """Returns why the operation may not run on the CPU, or None where it surely does."""
    if backend == "jax":
        import jax

        platform, devices = jax.default_backend(), jax.device_count()
        if platform != "cpu":
            return f"JAX computes on {platform}"
        # A call of the library cannot be cut: XLA would gather the whole batch for each of them.
        return None if devices == 1 else f"JAX computes on {devices} devices"
    if backend == "torch":
        device = keras.ops.convert_to_tensor(0.0).device.type
        return None if device == "cpu" else f"PyTorch computes on {device}"
    import tensorflow as tf

    accelerators = [d for kind in ("GPU", "TPU") for d in tf.config.get_visible_devices(kind)]
    if not accelerators:
        return None
    if "CPU" in tf.constant(0.0).device.upper():
        return None
    return f"{accelerators[0].name} is visible and no device scope says CPU"


def pytorch_compiles() -> bool:
    """Whether PyTorch compiles, traces or exports what is done here and now."""
    import torch

    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())


def _without_library(problem: str, backend: str) -> Lowering:
    """The choice where the native library cannot be used."""
    if backend in ("tensorflow", "torch"):
        return Lowering("fused", f"{problem}; composite where the fused kernel does not fit")
    return Lowering("composite", problem)


def lowering() -> Lowering:
    """Returns the implementation that training here and now would take, and why.

    `fused` takes no mask, weights or ghost batches, and under TensorFlow float32 with the channels
    last; other calls are then composite.

    Raises:
        ValueError: The environment variable KERAS_RENORM_LOWERING names no lowering, or
            KERAS_RENORM_CALLS is not `xla`.
        RuntimeError: The former demands `native`, which cannot be had.

    Example:
        >>> keras_renorm.ops.lowering()
        Lowering(name='native', reason='avx512 kernels of libkeras_renorm.so')
    """
    backend = keras.backend.backend()
    demanded = forced()
    if demanded in ("composite", "fused"):
        if demanded == "fused" and backend == "jax":
            return Lowering("composite", f"{VARIABLE}=fused, which JAX has not")
        return Lowering(demanded, f"{VARIABLE}={demanded}")
    if backend == "torch" and pytorch_compiles():
        return Lowering("fused", "PyTorch compiles or exports its own operations")
    problem = _native_problem(backend)
    if problem is None and backend == "tensorflow":
        from keras_renorm.ops.backends.tensorflow import runtime as tensorflow_runtime

        tensorflow_runtime.always_for_xla()
    if demanded == "native":
        if problem is not None:
            raise RuntimeError(f"{VARIABLE}=native, but {problem}.")
        return Lowering("native", f"{VARIABLE}=native")
    if problem is not None:
        if backend in ("tensorflow", "jax", "torch") and _off_cpu(backend) is None:
            _warn_once(problem)
        return _without_library(problem, backend)
    elsewhere = _off_cpu(backend)
    if elsewhere is not None:
        return Lowering("fused" if backend == "torch" else "composite", elsewhere)
    library = loader.load()
    return Lowering("native", f"{library.instruction_set} kernels of {library.path.name}")


def native_calls() -> ModuleType:
    """The module with the library's calls for the backend in use."""
    backend = keras.backend.backend()
    if backend == "jax":
        from keras_renorm.ops.backends.jax import calls as jax_calls

        return jax_calls
    if backend == "torch":
        from keras_renorm.ops.backends.torch import calls as torch_calls

        return torch_calls
    from keras_renorm.ops.backends.tensorflow import calls as tensorflow_calls

    return tensorflow_calls


def fused_kernel() -> ModuleType:
    """The module with the backend's own fused batch norm, under TensorFlow and PyTorch."""
    if keras.backend.backend() == "torch":
        from keras_renorm.ops.backends.torch import fused as torch_fused

        return torch_fused
    from keras_renorm.ops.backends.tensorflow import fused

    return fused


def native_passes() -> ModuleType:
    """The module with the library's passes; under PyTorch, those that inference takes."""
    if keras.backend.backend() == "torch":
        return native_calls()
    from keras_renorm.ops.backends.tensorflow import passes as native

    return native


def choose(x: Any, *, axis: int, epsilon: float, weighted: bool, ghosts: bool = False) -> Name:
    """Returns the lowering for one call.

    Args:
        x: The input.
        axis: The axis of its channels, at least 0.
        epsilon: Added to the variances.
        weighted: Whether there is a mask or weights.
        ghosts: Whether there are ghost batches.
    """
    name = lowering().name
    common: dict[str, Any] = {"axis": axis, "weighted": weighted, "ghosts": ghosts}
    if keras.backend.backend() == "torch":
        if name == "native" and not native_calls().takes(x):
            name = "fused"
        fits = name != "fused" or fused_kernel().fits(x, **common)
    elif name == "fused":
        fits = fused_kernel().fits(x, epsilon=epsilon, **common)
    else:
        fits = name != "native" or not len(x.shape) or x.shape[axis] is not None
    return name if fits else "composite"


def choose_for_inference(x: Any, *, axis: int, epsilon: float, portable: bool) -> Name:
    """Returns the lowering for one normalisation with population statistics.

    Args:
        x: The input.
        axis: The axis of its channels, at least 0.
        epsilon: Added to the variance.
        portable: Whether the native library may not be used. It is not even loaded then.
    """
    if keras.backend.backend() == "torch":
        native = lowering().name == "native" and native_calls().takes(x)
        if native and (math.prod(x.shape) >= _LARGE or forced() == "native"):
            return "native"
        return "composite"
    if keras.backend.backend() != "tensorflow" or forced() == "composite":
        return "composite"
    if not portable and x.shape[axis] is not None and lowering().name == "native":
        return "native"
    from keras_renorm.ops.backends.tensorflow import fused

    return "fused" if fused.fits_inference(x, axis=axis, epsilon=epsilon) else "composite"
