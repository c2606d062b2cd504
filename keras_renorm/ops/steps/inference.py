"""Normalisation with population statistics, into which the minibatch does not enter.

The lowerings, which give the same numbers: `in_passes` of the native library, which a model that is
exported must not hold; `fused.normalize`, an operation of TensorFlow's own; and plain operations.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

from keras_renorm.ops.backends.tensorflow.derivatives import (
    Functions,
    differentiable,
    held,
    of_this_graph,
)
from keras_renorm.ops.maths import passes as composite
from keras_renorm.ops.steps import lowerings
from keras_renorm.typing import Tensor


def take(
    x: Tensor,
    vectors: tuple[Tensor, ...],
    *,
    axis: int,
    epsilon: float,
    relu: bool,
    portable: bool,
) -> Tensor:
    """The output in the lowering that fits.

    Args:
        x: Tensor `[..., C, ...]`.
        vectors: mean, variance, gamma and beta, `[C]` each.
        axis: The axis of the channels, counted from the front.
        epsilon: Added to the variance.
        relu: Whether to take the positive part.
        portable: Whether no operation of the native library may be used.

    Returns:
        Tensor of the dtype and shape of `x`.
    """
    mean, variance = map(keras.ops.stop_gradient, vectors[:2])
    vectors = mean, variance, *vectors[2:]
    name = lowerings.choose_for_inference(x, axis=axis, epsilon=epsilon, portable=portable)
    if name == "native":
        passes = lowerings.native_passes()
        return in_passes(passes, x, vectors, axis=axis, epsilon=epsilon, relu=relu)
    if name == "composite" and keras.backend.backend() == "jax":
        y: Tensor = _compiled_by_jax(axis, epsilon, relu)(x, *vectors)
        return y
    if name == "composite":
        return in_plain_operations(x, *vectors, axis=axis, epsilon=epsilon, relu=relu)
    from keras_renorm.ops.backends.tensorflow import fused

    y = fused.normalize(x, *vectors, epsilon=epsilon)
    return keras.ops.relu(y) if relu else y


def in_plain_operations(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    axis: int,
    epsilon: float,
    relu: bool = False,
) -> Tensor:
    """The output in operations that the backend differentiates; arguments as those of `take`."""
    scale = gamma / keras.ops.sqrt(variance + epsilon)
    return composite.normalize(x, mean, None, scale, beta, axis=axis, relu=relu)


@functools.cache
def _compiled_by_jax(axis: int, epsilon: float, relu: bool) -> Callable[..., Tensor]:
    """`in_plain_operations`, in one pass also where JAX runs operation by operation."""
    import jax

    settings: dict[str, Any] = {"axis": axis, "epsilon": epsilon, "relu": relu}
    return jax.jit(functools.partial(in_plain_operations, **settings), inline=True)


def in_passes(
    passes: ModuleType,
    x: Tensor,
    vectors: tuple[Tensor, ...],
    *,
    axis: int,
    epsilon: float,
    relu: bool,
) -> Tensor:
    """The output in one pass over the tensor, its gradient in two; in two more after a ReLU.

    The gradient for `x` does not read `x`, which may hold NaN.

    Args:
        passes: `normalize`, `gradient_sums` and `relu_gradient` of the library.
        x: As in `take`, as are the following.
        vectors: mean, variance, gamma and beta.
        axis: The axis of the channels.
        epsilon: Added to the variance.
        relu: Whether to take the positive part.
    """
    x, mean, variance, gamma, beta = of_this_graph((x, *vectors))
    constants = mean, 1 / keras.ops.sqrt(variance + epsilon), keras.ops.zeros_like(mean)
    plain = _plain_output(axis, relu)

    def forward(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> tuple[Tensor]:
        mean, inverse, zero = constants
        return (passes.normalize(x, mean, zero, gamma * inverse, beta, axis=axis, relu=relu),)

    def backward(dy: Tensor, x: Tensor, gamma: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        _, mean, inverse, zero, *y = others
        dy = passes.relu_gradient(dy, *y) if relu else dy
        dbeta, dscale = passes.gradient_sums(dy, x, mean, zero, zero, zero, None, axis=axis)
        dx = passes.normalize(dy, zero, zero, gamma * inverse, zero, axis=axis)
        return dx, inverse * dscale, dbeta

    if keras.backend.backend() == "torch":
        from keras_renorm.ops.backends.torch import derivatives as torch_derivatives

        functions = Functions(forward, backward, plain, kept=0 if relu else None)
        (y,) = torch_derivatives.apply(functions, x, gamma, beta, *constants)
        return y

    @keras.ops.custom_gradient
    def output(*arguments: Tensor) -> Any:
        x, gamma, beta = held(arguments)
        (y,) = forward(x, gamma, beta, *constants)

        def fast(dy: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
            return backward(dy, *arguments, *constants, *([y] if relu else []))

        def gradients(dy: Tensor) -> tuple[Tensor, ...]:
            return differentiable(fast, plain, constants)(dy, *arguments)

        return y, gradients

    return output(x, gamma, beta)


@functools.cache
def _plain_output(axis: int, relu: bool) -> Callable[..., Tensor]:
    """The output in plain operations, as a function of `(x, gamma, beta, *constants)`."""

    def output(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Tensor:
        mean, inverse, _ = constants
        return composite.normalize(x, mean, None, gamma * inverse, beta, axis=axis, relu=relu)

    return output
