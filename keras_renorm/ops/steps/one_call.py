"""A step as one call of the native library forwards and one backwards."""

import functools
from types import ModuleType
from typing import Any

import keras

from keras_renorm.ops.backends.tensorflow.derivatives import Functions
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.step import Step
from keras_renorm.typing import Tensor


def take(
    calls: ModuleType,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    step: Step,
    *,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> tuple[Tensor, ...]:
    """The step, and that of the moving statistics.

    Args:
        calls: `forward` and `backward`, as in `keras_renorm.ops.backends.tensorflow.calls`.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        momentum: As in `keras_renorm.ops.update_moving`.
        by_stddev: As there.

    Returns:
        The output, its statistics, and those that `Moving` holds, as `calls.forward` gives them.
    """
    options: dict[str, Any] = {"axis": step.axis, "relu": step.relu, "ghost_size": step.ghost_size}
    more = {"epsilon": step.epsilon, "momentum": momentum, "by_stddev": by_stddev}
    forward = functools.partial(calls.forward, **options, **more)

    def backward(dy: Tensor, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        _, _, _, _, _, _, *mask, statistics = others
        gradients: tuple[Tensor, ...] = calls.backward(dy, x, statistics, *mask, **options)
        return gradients

    functions = Functions(forward, backward, plain.output(step), kept=1)
    if keras.backend.backend() == "tensorflow":
        return _by_tensorflow(functions, x, gamma, beta, step)
    if keras.backend.backend() == "jax":
        from keras_renorm.ops.backends.jax import derivatives as jax_derivatives

        return jax_derivatives.apply(functions, x, gamma, beta, *step.constants)
    from keras_renorm.ops.backends.torch import derivatives as torch_derivatives

    return torch_derivatives.apply(functions, x, gamma, beta, *step.constants)


def moments(statistics: Tensor, step: Step) -> Moments:
    """The moments among the statistics that `take` returns."""
    rows = keras.ops.stop_gradient(statistics)[:4]
    rows = rows[:, 0] if step.ghost_size is None else rows
    mean, remainder, variance, count = keras.ops.unstack(rows, 4)
    return Moments(mean, variance, count, remainder)


def _by_tensorflow(
    functions: Functions, x: Tensor, gamma: Tensor, beta: Tensor, step: Step
) -> tuple[Tensor, ...]:
    @keras.ops.custom_gradient
    def outputs(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Any:
        found = tuple(functions.forward(x, gamma, beta, *constants))

        def fast(dy: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
            return functions.backward(dy, *arguments, *constants, found[1])

        def gradients(dy: Tensor, *_: Any) -> tuple[Any, ...]:
            return *plain.gradient(fast, step)(dy, x, gamma, beta), *(None for _ in constants)

        return found, gradients

    result: tuple[Tensor, ...] = outputs(x, gamma, beta, *step.constants)
    return result
