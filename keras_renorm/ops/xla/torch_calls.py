"""The native kernels as operators of PyTorch, on the CPU.

The same calls as in `tensorflow_calls`, but for those that merge replicas: `keras_renorm::forward`
and so on. Their derivatives are in `keras_renorm.ops.torch_derivatives`. An input need not be
contiguous: one whose axes lie in memory in another order, as PyTorch's convolutions return it, is
worked on as it lies, and its output lies likewise.
"""

import array
import ctypes
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from keras_renorm.ops.xla import loader

STATISTICS = 9
"""Rows of the packed statistics, in the order of `tensorflow_calls.Statistics`."""

_ELEMENTS = {  # by their numbers in tensor.h
    dtype: number
    for number, dtype in enumerate(
        (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool)
    )
}

_SCHEMAS = {
    "forward": (
        "(Tensor x, Tensor gamma, Tensor beta, Tensor moving_mean, Tensor moving_variance, "
        "Tensor r_max, Tensor d_max, Tensor? weights, *, int axis, float epsilon, bool relu, "
        "int ghost_size, float momentum, bool by_stddev) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "backward": (
        "(Tensor dy, Tensor x, Tensor statistics, Tensor? weights, *, int axis, bool relu, "
        "int ghost_size) -> (Tensor, Tensor, Tensor)"
    ),
    "normalize": "(Tensor x, Tensor parameters, *, int axis, bool relu) -> Tensor",
    "gradient_sums": (
        "(Tensor dy, Tensor x, Tensor parameters, Tensor? weights, *, int axis, bool relu) "
        "-> Tensor"
    ),
}


@functools.cache
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
            ("normalize", _normalize, _empty_normalize),
            ("gradient_sums", _gradient_sums, _empty_sums),
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
    """The function that starts the threads of PyTorch's OpenMP, if it has that of this name."""
    path = pathlib.Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        loaded = ctypes.CDLL(os.fspath(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        return ctypes.cast(loaded.GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):  # linked otherwise: the library has threads of its own
        return None


def takes(x: torch.Tensor) -> bool:
    """Whether the kernels can work on this input."""
    return x.device.type == "cpu" and x.dtype in _ELEMENTS


def forward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    moving_mean: torch.Tensor,
    moving_variance: torch.Tensor,
    r_max: torch.Tensor,
    d_max: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    axis: int,
    epsilon: float,
    relu: bool = False,
    ghost_size: int | None = None,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch Renormalization and the moving update; see `tensorflow_calls.forward`.

    Args:
        x: [..., channels, ...].
        gamma: [channels], float64 for float64 and otherwise float32, as are all the following.
        beta: [channels].
        moving_mean: [channels].
        moving_variance: [channels].
        r_max: Scalar; a value below 1 counts as 1.
        d_max: Scalar; a value below 0 counts as 0.
        weights: Mask (bool) or weights, of the rank of `x` and broadcast against it.
        axis: The axis of the channels, at least 0.
        epsilon: Added to both variances.
        relu: Whether to take the positive part of y.
        ghost_size: Rows of the batch with moments of their own; None for all together.
        momentum: Weight of the old moving statistics in the new ones.
        by_stddev: Whether sigma is averaged, and not the variance.

    Returns:
        y, the packed statistics [9, ghosts, channels], the moving mean and variance after the
        update [channels], and whether there was one: a scalar, 1 or 0.
    """
    register()
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    found = torch.ops.keras_renorm.forward.default(
        x,
        gamma,
        beta,
        moving_mean,
        moving_variance,
        r_max,
        d_max,
        weights,
        axis=axis,
        epsilon=epsilon,
        relu=relu,
        ghost_size=ghost_size or 0,
        momentum=momentum,
        by_stddev=by_stddev,
    )
    return found


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    axis: int,
    relu: bool = False,
    ghost_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `forward` for x, gamma and beta; see `tensorflow_calls.backward`.

    Args:
        dy: Gradient of the output, like x.
        x: The input of `forward`.
        statistics: Its packed statistics.
        weights: Its weights.
        axis: As there.
        relu: As there.
        ghost_size: As there.
    """
    register()
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    found = torch.ops.keras_renorm.backward.default(
        dy, x, statistics, weights, axis=axis, relu=relu, ghost_size=ghost_size or 0
    )
    return found


def normalize(
    x: torch.Tensor,
    mean: torch.Tensor,
    mean_remainder: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    *,
    axis: int,
    relu: bool = False,
) -> torch.Tensor:
    """Normalises with given vectors; see `tensorflow_calls.normalize`.

    Args:
        x: As in `forward`.
        mean: [channels], as are the following.
        mean_remainder: What rounding to `mean` left out.
        scale: Factor of the centred value.
        offset: Added to the product.
        axis: The axis of the channels.
        relu: Whether to take the positive part of y.
    """
    register()
    parameters = torch.stack((mean, mean_remainder, scale, offset))
    y: torch.Tensor = torch.ops.keras_renorm.normalize.default(x, parameters, axis=axis, relu=relu)
    return y


def gradient_sums(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    mean_remainder: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    axis: int,
    relu: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of dy, and of dy times the centred value; see `tensorflow_calls.gradient_sums`.

    Args:
        dy: Gradient of the output of `normalize`.
        x: Its input, as are the following.
        mean: As there.
        mean_remainder: As there.
        scale: As there; read with `relu` only.
        offset: As there; read with `relu` only.
        weights: As in `forward`.
        axis: As there.
        relu: As there.

    Returns:
        Both sums, each [channels], of the type of `mean`.
    """
    register()
    parameters = torch.stack((mean, mean_remainder, scale, offset))
    sums: torch.Tensor = torch.ops.keras_renorm.gradient_sums.default(
        dy, x, parameters, weights, axis=axis, relu=relu
    )
    first, second = sums.to(mean.dtype).unbind()
    return first, second


def relu_gradient(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`dy` where the output `y` of a ReLU is positive, and 0 elsewhere."""
    return torch.ops.aten.threshold_backward.default(dy, y, 0)


# ---- the operators


def _forward(
    x: torch.Tensor,
    *others: torch.Tensor | None,
    axis: int,
    ghost_size: int,
    **attributes: Any,
) -> tuple[torch.Tensor, ...]:
    *vectors, weights = others
    results = _empty_forward(x, *others, axis=axis, ghost_size=ghost_size, **attributes)
    order = _order(x, ghost_size)
    _call(
        "forward",
        [_lying(x, order), *vectors, *_optional(weights, x, axis, order)],
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
    channels = len(gamma)
    sizes = (STATISTICS, ghosts, channels), (channels,), (channels,), ()
    return _empty_like(x, ghost_size), *map(gamma.new_empty, sizes)


def _backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    weights: torch.Tensor | None,
    *,
    axis: int,
    ghost_size: int,
    relu: bool,
) -> tuple[torch.Tensor, ...]:
    results = _empty_backward(dy, x, statistics, weights, ghost_size=ghost_size)
    order = _order(x, ghost_size)
    _call(
        "backward",
        [_lying(dy, order), _lying(x, order), statistics, *_optional(weights, x, axis, order)],
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


def _normalize(x: torch.Tensor, parameters: torch.Tensor, *, axis: int, relu: bool) -> torch.Tensor:
    y = _empty_normalize(x)
    order = _order(x)
    operands, results = [_lying(x, order), parameters], [_lying(y, order)]
    _call("normalize", operands, results, axis=order.index(axis), relu=relu)
    return y


def _empty_normalize(x: torch.Tensor, *_: torch.Tensor, **__: Any) -> torch.Tensor:
    return _empty_like(x)


def _gradient_sums(
    dy: torch.Tensor,
    x: torch.Tensor,
    parameters: torch.Tensor,
    weights: torch.Tensor | None,
    *,
    axis: int,
    relu: bool,
) -> torch.Tensor:
    sums = _empty_sums(dy, x, parameters)
    order = _order(x)
    operands = [
        _lying(dy, order), _lying(x, order), parameters, *_optional(weights, x, axis, order)
    ]  # fmt: skip
    _call("gradient_sums", operands, [sums], axis=order.index(axis), relu=relu)
    return sums


def _empty_sums(
    _: torch.Tensor, __: torch.Tensor, parameters: torch.Tensor, *___: Any, **____: Any
) -> torch.Tensor:
    return parameters.new_empty((2, parameters.shape[1]), dtype=torch.float64)


def _order(x: torch.Tensor, ghost_size: int = 0) -> tuple[int, ...]:
    """The axes in the order in which they lie in memory, or lie once `x` is made contiguous.

    Ghost batches are cut from the first axis, which then has to stay the first.
    """
    axes = tuple(range(x.ndim))
    if x.is_contiguous():
        return axes
    strides = x.stride()
    order = tuple(sorted(axes, key=lambda axis: -strides[axis]))
    moved = ghost_size != 0 and order[0] != 0
    return axes if moved or not x.permute(order).is_contiguous() else order


def _lying(x: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """`x`, its axes in this order, as values without gaps: a copy if it lies otherwise."""
    return x.permute(order).contiguous()


def _empty_like(x: torch.Tensor, ghost_size: int = 0) -> torch.Tensor:
    """A tensor that lies in memory as the kernels see `x`."""
    order = _order(x, ghost_size)
    return torch.empty_permuted(x.shape, order, dtype=x.dtype, device=x.device)


def _optional(
    weights: torch.Tensor | None, x: torch.Tensor, axis: int, order: Sequence[int]
) -> list[torch.Tensor]:
    """The last operand, where there is one: a value per element, or per position of `x`."""
    if weights is None:
        return []
    if weights.dtype != torch.bool:
        weights = weights.to(torch.float32)
    shape = (*x.shape[:axis], weights.shape[axis], *x.shape[axis + 1 :])
    return [_lying(weights.expand(shape), order)]


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
    """Makes a call of the library, which writes into the results; c_calls.cc has the other side.

    All tensors are contiguous. They live until the call returns: nobody else holds a copy's memory.
    """
    words = array.array("q")
    operands = [operand.contiguous() for operand in operands]
    for tensor in (*operands, *results):
        shape = tensor.shape
        words.extend((tensor.data_ptr(), _ELEMENTS[tensor.dtype], len(shape), *shape))
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
