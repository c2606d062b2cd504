"""Which lowering computes the normalisation here and now, and why.

native     the C++ kernels of `keras_renorm.ops.native`: on the CPU, where their library loads
fused      TensorFlow's fused batch norm, or PyTorch's: where the library does not load; under
           TensorFlow on a GPU, by cuDNN, but not where XLA compiles; under PyTorch on other devices
           and where PyTorch compiles
composite  the formulas in plain operations: every type, rank, backend and device

All three give the same numbers up to rounding, which is largest in `fused`. Each call chooses; in a
`tf.function` that is when it is traced. Portable inference is native in PyTorch's eager programs
only. Elsewhere it is fused where that fits, or composite.
"""

import functools
import os
from typing import Literal, NamedTuple

from keras_renorm import callers, keras_internals
from keras_renorm.ops import backends
from keras_renorm.ops.native import loader

Name = Literal["native", "fused", "composite"]

NAMES: tuple[Name, ...] = ("native", "fused", "composite")
"""The lowerings, the fastest first."""

VARIABLE = "KERAS_RENORM_LOWERING"
"""The environment variable that forces one of `NAMES`."""


class Lowering(NamedTuple):
    """A choice.

    Attributes:
        name: native, fused or composite.
        reason: Why it is this one, in words.
    """

    name: Name
    reason: str


def forced() -> Name | None:
    """Returns the lowering that the environment variable names, or None.

    Raises:
        ValueError: The variable names no lowering.
    """
    value = os.environ.get(VARIABLE, "")
    if value and value not in NAMES:
        raise ValueError(
            f"The environment variable {VARIABLE}={value!r} names no lowering. Set it to one of "
            f"{', '.join(NAMES)}, or unset it."
        )
    return next((name for name in NAMES if name == value), None)


def allowed(name: Name) -> tuple[Name, ...]:
    """The lowerings that may compute a step where `lowering` says `name`.

    Slower ones follow it, for the steps that it does not take.
    """
    return NAMES[NAMES.index(name) :]


def lowering() -> Lowering:
    """Returns the lowering that training would take here and now, and why.

    `fused` takes no mask and no ghost batches. Under TensorFlow it takes no float64, and on a CPU
    only float32 with the channels last. Calls that `fused` does not take are composite.

    Raises:
        ValueError: The environment variable KERAS_RENORM_LOWERING names no lowering, or
            KERAS_RENORM_CALLS is not `xla`.
        RuntimeError: KERAS_RENORM_LOWERING demands `native`, which is not available.

    Example:
        >>> keras_renorm.ops.lowering()
        Lowering(name='native', reason='... kernels of libkeras_renorm.so')
    """
    backend, demanded = backends.current(), forced()
    if demanded == "fused" and backend.fused is None:
        return Lowering("composite", f"{VARIABLE}=fused, which {backend.title} does not have")
    if demanded in ("composite", "fused"):
        return Lowering(demanded, f"{VARIABLE}={demanded}")
    own = backend.own_operations_only()
    if own is None and demanded is None and keras_internals.is_exporting():
        own = "an export must not need the native library"
    if own is not None:
        return Lowering(backend.elsewhere, own)
    problem = backend.native_problem()
    if problem is not None:
        return _without_library(problem, demanded)
    if demanded is not None:
        return Lowering(demanded, f"{VARIABLE}={demanded}")
    elsewhere = backend.off_cpu()
    if elsewhere is not None:
        return Lowering(backend.elsewhere, elsewhere)
    library = loader.load()
    return Lowering("native", f"{library.instruction_set} kernels of {library.path.name}")


def _without_library(problem: str, demanded: Name | None) -> Lowering:
    """The choice without the native library. Warns once on the CPU, where the library is missed."""
    backend = backends.current()
    if demanded is not None:
        raise RuntimeError(f"{VARIABLE}={demanded}, but {problem}.")
    name: Name = "composite" if backend.fused is None else "fused"
    if backend.off_cpu() is None:
        _warn_once(problem, name)
    rest = "" if name == "composite" else "; composite where the fused kernel does not fit"
    return Lowering(name, problem + rest)


@functools.cache
def _warn_once(problem: str, name: Name) -> None:
    """Warns of a missing library, once per process."""
    callers.warn(
        f"keras_renorm computes without its native library, which is slower: {problem}. Set "
        f"{VARIABLE}={name} if you want that.",
        RuntimeWarning,
    )
