"""The native library's calls as operators of PyTorch on the CPU, `keras_renorm::forward` and so on.

`keras_renorm.ops.backends.torch.calls` has them as functions. Inputs need not be contiguous. Their
axes may lie in memory in another order, as PyTorch's convolutions return them. The output then lies
likewise, and nothing is copied.
"""

import array
import ctypes
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

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
        "Tensor r_max, Tensor d_max, Tensor? mask, *, int axis, float epsilon, bool relu, "
        "int ghost_size, float momentum, bool by_stddev) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "backward": (
        "(Tensor dy, Tensor x, Tensor statistics, Tensor? mask, *, int axis, bool relu, "
        "int ghost_size) -> (Tensor, Tensor, Tensor)"
    ),
    "moments": "(Tensor x, Tensor? mask, *, int axis) -> Tensor",
    "normalize": "(Tensor x, Tensor parameters, *, int axis, bool relu) -> Tensor",
    "gradient_sums": (
        "(Tensor dy, Tensor x, Tensor parameters, Tensor? mask, *, int axis, bool relu) -> Tensor"
    ),
    "input_gradient": (
        "(Tensor dy, Tensor x, Tensor parameters, Tensor? mask, *, int axis, bool relu) -> Tensor"
    ),
}


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
        for name, function, fake in (
            ("forward", _forward, _empty_forward),
            ("backward", _backward, _empty_backward),
            ("moments", _moments, _empty_moments),
            ("normalize", _normalize, _empty_normalize),
            ("gradient_sums", _gradient_sums, _empty_sums),
            ("input_gradient", _input_gradient, _empty_gradient),
        ):
            operator = f"keras_renorm::{name}"
            torch.library.define(operator, _SCHEMAS[name])
            torch.library.impl(operator, "cpu", function)
            torch.library.register_fake(operator, fake)
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


def _forward(
    x: torch.Tensor,
    *others: torch.Tensor | None,
    axis: int,
    ghost_size: int,
    **attributes: Any,
) -> tuple[torch.Tensor, ...]:
    *vectors, mask = others
    results = _empty_forward(x, *others, axis=axis, ghost_size=ghost_size, **attributes)
    order = _order(x, ghost_size)
    _call(
        "forward",
        [_lying(x, order), *vectors, *_optional(mask, x, axis, order)],
        [_lying(results[0], order), *results[1:]],
        axis=order.index(axis),
        ghost_size=ghost_size,
        **attributes,
    )
    return results


def _empty_forward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    *_: torch.Tensor | None,
    ghost_size: int,
    **__: Any,
) -> tuple[torch.Tensor, ...]:
    """The results of `_forward` before they are computed."""
    ghosts = 1 if ghost_size == 0 else -(-x.shape[0] // ghost_size)
    sizes = layout.forward_shapes(ghosts, len(gamma))
    return _empty_like(x, ghost_size), *map(gamma.new_empty, sizes)


def _backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    axis: int,
    ghost_size: int,
    relu: bool,
) -> tuple[torch.Tensor, ...]:
    results = _empty_backward(dy, x, statistics, mask, ghost_size=ghost_size)
    order = _order(x, ghost_size)
    _call(
        "backward",
        [_lying(dy, order), _lying(x, order), statistics, *_optional(mask, x, axis, order)],
        [_lying(results[0], order), *results[1:]],
        axis=order.index(axis),
        ghost_size=ghost_size,
        relu=relu,
    )
    return results


def _empty_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    *_: torch.Tensor | None,
    ghost_size: int,
    **__: Any,
) -> tuple[torch.Tensor, ...]:
    """The results of `_backward` before they are computed."""
    dgamma, dbeta = (statistics.new_empty(statistics.shape[2:]) for _ in range(2))
    return _empty_like(x, ghost_size), dgamma, dbeta


def _moments(x: torch.Tensor, mask: torch.Tensor | None, *, axis: int) -> torch.Tensor:
    found = _empty_moments(x, mask, axis=axis)
    order = _order(x)
    operands = [_lying(x, order), *_optional(mask, x, axis, order)]
    _call("moments", operands, [found], axis=order.index(axis))
    return found


def _empty_moments(x: torch.Tensor, _: torch.Tensor | None, *, axis: int) -> torch.Tensor:
    return x.new_empty((4, x.shape[axis]), dtype=torch.float64)


def _normalize(x: torch.Tensor, parameters: torch.Tensor, *, axis: int, relu: bool) -> torch.Tensor:
    y = _empty_normalize(x)
    order = _order(x)
    operands, results = [_lying(x, order), parameters], [_lying(y, order)]
    _call("normalize", operands, results, axis=order.index(axis), relu=relu)
    return y


def _empty_normalize(x: torch.Tensor, *_: torch.Tensor, **__: Any) -> torch.Tensor:
    return _empty_like(x)


def _gradient_sums(*given: torch.Tensor | None, axis: int, relu: bool) -> torch.Tensor:
    operands, order, sums = *_backwards(*given, axis=axis), _empty_sums(*given)
    _call("gradient_sums", operands, [sums], axis=order.index(axis), relu=relu)
    return sums


def _empty_sums(*given: torch.Tensor | None, **_: Any) -> torch.Tensor:
    parameters = given[2]
    assert parameters is not None
    return parameters.new_empty((2, parameters.shape[1]), dtype=torch.float64)


def _input_gradient(*given: torch.Tensor | None, axis: int, relu: bool) -> torch.Tensor:
    operands, order, dx = *_backwards(*given, axis=axis), _empty_gradient(*given)
    results = [_lying(dx, order)]
    _call("input_gradient", operands, results, axis=order.index(axis), relu=relu)
    return dx


def _empty_gradient(*given: torch.Tensor | None, **_: Any) -> torch.Tensor:
    x = given[1]
    assert x is not None
    return _empty_like(x)


def _backwards(
    dy: torch.Tensor,
    x: torch.Tensor,
    parameters: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    axis: int,
) -> tuple[list[torch.Tensor], tuple[int, ...]]:
    """The operands of a backward pass as they lie in memory, and the order of their axes."""
    order = _order(x)
    like_x = [_lying(dy, order), _lying(x, order)]
    return [*like_x, parameters, *_optional(mask, x, axis, order)], order


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
    *,
    axis: int,
    ghost_size: int = 0,
    relu: bool = False,
    epsilon: float = 0.0,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> None:
    """Makes a call of the library, which writes into the results. c_calls.cc has the other side.

    Results are contiguous, and so are operands of the size of the input.
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
        axis,
        ghost_size,
        relu,
        epsilon,
        momentum,
        by_stddev,
    )
    if problem is not None:
        raise RuntimeError(problem.decode())
