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
from collections.abc import Callable, Sequence
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
_ATTRIBUTES = (
    "*, int axis, int ghost_size=0, bool relu=False, float epsilon=0.0, float momentum=1.0, "
    "bool by_stddev=False"
)
_DEFAULTS = layout.attributes(Settings(axis=0))  # PyTorch leaves out attributes with these values

_SUMS = ("moments", "gradient_sums")
"""The calls without a result of the shape of x."""


@loader.once
def register() -> loader.NativeLibrary:
    """Makes the library's calls known to PyTorch, once per process.

    Raises:
        NativeLibraryError: The library does not load, or this PyTorch does not take it.
    """
    library = loader.load()
    library.handle.keras_renorm_call.restype = ctypes.c_char_p
    library.handle.keras_renorm_call.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 5,
        ctypes.c_bool,
        ctypes.c_double,
        ctypes.c_double,
        ctypes.c_bool,
    ]
    if parallel := openmp():
        library.handle.keras_renorm_use_openmp(parallel)
    try:
        for name, empty, like_x in (
            ("forward", _empty_forward, 1),
            ("backward", _empty_backward, 2),
            ("moments", _empty_moments, 1),
            ("normalize", _empty_normalize, 1),
            ("gradient_sums", _empty_sums, 2),
            ("input_gradient", _empty_gradient, 2),
        ):
            operator = f"keras_renorm::{name}"
            torch.library.define(operator, _SCHEMAS[name].format(_ATTRIBUTES))
            torch.library.impl(operator, "cpu", functools.partial(_run, name, empty, like_x))
            torch.library.register_fake(operator, empty)
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


def _run(name: str, empty: Callable[..., Any], like_x: int, *given: Any, **attributes: Any) -> Any:
    """Makes a call of the library. What has the shape of x lies in memory as x does.

    Args:
        name: The call's name.
        empty: What makes the results, before they are computed.
        like_x: How many operands in front have the shape of x, which is the last of them.
        *given: The operands.
        **attributes: Those that differ from `_DEFAULTS`.
    """
    attributes = _DEFAULTS | attributes
    found = empty(*given, **attributes)
    results = [*found] if isinstance(found, tuple) else [found]
    x, axis = given[like_x - 1], attributes["axis"]
    order = _order(x, attributes["ghost_size"])
    if name not in _SUMS:
        results[0] = _lying(results[0], order)
    others = list(given[like_x:])
    if "mask" in _SCHEMAS[name]:
        others += _optional(others.pop(), x, axis, order)
    operands = [*(_lying(tensor, order) for tensor in given[:like_x]), *others]
    _call(name, operands, results, attributes | {"axis": order.index(axis)})
    return found


def _empty_forward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    *_: torch.Tensor | None,
    ghost_size: int = 0,
    **__: Any,
) -> tuple[torch.Tensor, ...]:
    ghosts = 1 if ghost_size == 0 else -(-x.shape[0] // ghost_size)
    sizes = layout.forward_shapes(ghosts, len(gamma))
    return _empty_like(x, ghost_size), *map(gamma.new_empty, sizes)


def _empty_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    *_: torch.Tensor | None,
    ghost_size: int = 0,
    **__: Any,
) -> tuple[torch.Tensor, ...]:
    dgamma, dbeta = (statistics.new_empty(statistics.shape[2:]) for _ in range(2))
    return _empty_like(x, ghost_size), dgamma, dbeta


def _empty_moments(x: torch.Tensor, *_: torch.Tensor | None, axis: int, **__: Any) -> torch.Tensor:
    return x.new_empty((4, x.shape[axis]), dtype=torch.float64)


def _empty_normalize(x: torch.Tensor, *_: torch.Tensor, **__: Any) -> torch.Tensor:
    return _empty_like(x)


def _empty_sums(
    dy: torch.Tensor, x: torch.Tensor, parameters: torch.Tensor, *_: torch.Tensor | None, **__: Any
) -> torch.Tensor:
    return parameters.new_empty((2, parameters.shape[1]), dtype=torch.float64)


def _empty_gradient(
    dy: torch.Tensor, x: torch.Tensor, *_: torch.Tensor | None, **__: Any
) -> torch.Tensor:
    return _empty_like(x)


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


def _optional(
    mask: torch.Tensor | None, x: torch.Tensor, axis: int, order: Sequence[int]
) -> list[torch.Tensor]:
    """The last operand, if any: a value per element, or per position of `x`."""
    if mask is None:
        return []
    shape = (*x.shape[:axis], mask.shape[axis], *x.shape[axis + 1 :])
    return [_lying(mask.expand(shape), order)]


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
