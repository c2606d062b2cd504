"""The native library's calls as operators of PyTorch on the CPU, `keras_renorm::forward` and so on.

`keras_renorm.ops.backends.torch.calls` has them as functions. Inputs need not be contiguous. Their
axes may lie in memory in another order, as PyTorch's convolutions return them. The output then lies
likewise, and nothing is copied.
"""

import array
import ctypes
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from keras_renorm.ops.maths.operands import Settings
from keras_renorm.ops.native import layout, loader

ELEMENTS = {  # with their numbers in tensor.h
    dtype: number
    for number, dtype in enumerate(
        (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool)
    )
}

_SCHEMAS = {
    "forward": (
        "(Tensor x, Tensor gamma, Tensor beta, Tensor moving_mean, Tensor moving_variance, "
        "Tensor r_max, Tensor d_max, Tensor? mask, {}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "backward": (
        "(Tensor dy, Tensor x, Tensor statistics, Tensor? mask, {}) -> (Tensor, Tensor, Tensor)"
    ),
    "moments": "(Tensor x, Tensor? mask, {}) -> Tensor",
    "normalize": "(Tensor x, Tensor parameters, {}) -> Tensor",
    "gradient_sums": "(Tensor dy, Tensor x, Tensor parameters, Tensor? mask, {}) -> Tensor",
    "input_gradient": "(Tensor dy, Tensor x, Tensor parameters, Tensor? mask, {}) -> Tensor",
}
_DEFAULTS = layout.attributes(Settings(axis=0))  # PyTorch leaves out attributes with these values
_ATTRIBUTES = "*, " + ", ".join(f"{type(v).__name__} {k}={v}" for k, v in _DEFAULTS.items())
_C_TYPES: dict[type, Any] = {int: ctypes.c_int64, bool: ctypes.c_bool, float: ctypes.c_double}

_SUMS = ("moments", "gradient_sums")
"""The calls without a result of the shape of x."""


@loader.once
def register() -> loader.NativeLibrary:
    """Makes the library's calls known to PyTorch, once per process.

    Raises:
        NativeLibraryError: The library does not load, or this PyTorch does not take it.
    """
    library = loader.load()
    attributes = [_C_TYPES[type(value)] for value in _DEFAULTS.values()]
    call = library.handle.keras_renorm_call
    call.restype = ctypes.c_char_p
    call.argtypes = [ctypes.c_int, ctypes.c_void_p, *[ctypes.c_int64] * 3, *attributes]
    if parallel := openmp():
        library.handle.keras_renorm_use_openmp(parallel)
    try:
        for name, schema in _SCHEMAS.items():
            operator = f"keras_renorm::{name}"
            torch.library.define(operator, schema.format(_ATTRIBUTES))
            torch.library.impl(operator, "cpu", functools.partial(_run, name))
            torch.library.register_fake(operator, functools.partial(_empty, name))
    except (AttributeError, RuntimeError) as error:
        raise loader.NativeLibraryError(
            f"PyTorch {torch.__version__} does not take the native library: {error}"
        ) from error
    return library


def openmp() -> ctypes.c_void_p | None:
    """The function that starts the threads of PyTorch's OpenMP, or None if it is not GNU's."""
    path = pathlib.Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        loaded = ctypes.CDLL(os.fspath(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        return ctypes.cast(loaded.GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):  # linked otherwise: the library makes its own threads
        return None


def _run(name: str, *given: Any, **attributes: Any) -> Any:
    """Makes a call of the library. What has the shape of x lies in memory as x does.

    Args:
        name: The call's name.
        *given: The operands.
        **attributes: Those that differ from `_DEFAULTS`.
    """
    found = _empty(name, *given, **attributes)
    results = [*found] if isinstance(found, tuple) else [found]
    attributes = _DEFAULTS | attributes
    place, axis = _place(name), attributes["axis"]
    x, others = given[place], list(given[place + 1 :])
    order = _order(x, attributes["ghost_size"])
    if name not in _SUMS:
        results[0] = _lying(results[0], order)
    if "mask" in _SCHEMAS[name] and (mask := others.pop()) is not None:
        # A value per element, or per position of x.
        shape = (*x.shape[:axis], mask.shape[axis], *x.shape[axis + 1 :])
        others.append(_lying(mask.expand(shape), order))
    operands = [*(_lying(tensor, order) for tensor in given[: place + 1]), *others]
    _call(name, operands, results, attributes | {"axis": order.index(axis)})
    return found


def _place(name: str) -> int:
    """The place of x among the operands of a call. All before it have its shape."""
    return 1 if _SCHEMAS[name].startswith("(Tensor dy,") else 0


def _empty(name: str, *given: Any, axis: int = 0, ghost_size: int = 0, **_: Any) -> Any:
    """What a call returns, before it is computed."""
    x = given[_place(name)]
    own, wide = (x.dtype, x.shape), torch.promote_types(x.dtype, torch.float32)
    ghosts = -(-x.shape[0] // ghost_size) if ghost_size else 1
    results = layout.results(name, own, wide, torch.float64, ghosts, x.shape[axis])
    found = tuple(
        _empty_like(x, ghost_size) if result is own else x.new_empty(result[1], dtype=result[0])
        for result in results
    )
    return found if len(found) > 1 else found[0]


def _order(x: torch.Tensor, ghost_size: int = 0) -> tuple[int, ...]:
    """The axes in their order in memory, or in the order of a contiguous copy of `x`.

    Ghost batches are cut from the first axis, which must then stay the first.
    """
    axes = tuple(range(x.ndim))
    if x.is_contiguous():
        return axes
    strides = x.stride()
    order = tuple(sorted(axes, key=lambda axis: -strides[axis]))
    moved = ghost_size != 0 and order[0] != 0
    return axes if moved or not x.permute(order).is_contiguous() else order


def _lying(x: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """`x` with its axes in this order and without gaps: a copy if it lies otherwise."""
    return x.permute(order).contiguous()


def _empty_like(x: torch.Tensor, ghost_size: int = 0) -> torch.Tensor:
    """A tensor that lies in memory as the kernels see `x`."""
    order = _order(x, ghost_size)
    return torch.empty_permuted(x.shape, order, dtype=x.dtype, device=x.device)


def _call(
    name: str,
    operands: Sequence[torch.Tensor],
    results: Sequence[torch.Tensor],
    attributes: dict[str, Any],
) -> None:
    """Makes a call of the library, which writes into the results. c_calls.cc has the other side.

    Results are contiguous, and so are operands of the size of the input. The attributes are those
    of `layout.attributes`, in their order.
    """
    words = array.array("q")
    operands = [operand.contiguous() for operand in operands]  # keeps copies alive for the call
    for tensor in (*operands, *results):
        shape = tensor.shape
        words.extend((tensor.data_ptr(), ELEMENTS[tensor.dtype], len(shape), *shape))
    problem = register().handle.keras_renorm_call(
        loader.HANDLERS.index(name),
        words.buffer_info()[0],
        len(operands),
        len(results),
        torch.get_num_threads(),
        *attributes.values(),
    )
    if problem is not None:
        raise RuntimeError(problem.decode())
