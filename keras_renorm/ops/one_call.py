"""A step as one call of the native library forwards and one backwards."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

from keras_renorm.ops import plain
from keras_renorm.ops.moments import Moments
from keras_renorm.ops.step import Step
from keras_renorm.typing import Tensor

Call = Callable[..., tuple[Tensor, ...]]


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
        calls: `forward` and `backward`, as in `keras_renorm.ops.xla.tensorflow_calls`.
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
    backward = functools.partial(calls.backward, **options)
    apply = _by_pytorch if keras.backend.backend() == "torch" else _by_keras
    return apply(forward, backward, x, gamma, beta, step)


def moments(statistics: Tensor, step: Step) -> Moments:
    """The moments among the statistics that `take` returns."""
    rows = keras.ops.stop_gradient(statistics)[:4]
    rows = rows[:, 0] if step.ghost_size is None else rows
    mean, remainder, variance, count = keras.ops.unstack(rows, 4)
    return Moments(mean, variance, count, remainder)


def _by_keras(
    forward: Call, backward: Call, x: Tensor, gamma: Tensor, beta: Tensor, step: Step
) -> tuple[Tensor, ...]:
    @keras.ops.custom_gradient
    def outputs(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Any:
        _, _, _, _, *mask = constants
        found = tuple(forward(x, gamma, beta, *constants))

        def fast(dy: Tensor, x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
            return backward(dy, x, found[1], *mask)

        def gradients(*upstream: Any) -> tuple[Any, ...]:
            # TensorFlow passes the outputs' gradients one by one, JAX as one tuple.
            dy = upstream[0][0] if isinstance(upstream[0], tuple) else upstream[0]
            return *plain.gradient(fast, step)(dy, x, gamma, beta), *(None for _ in constants)

        return found, gradients

    result: tuple[Tensor, ...] = outputs(x, gamma, beta, *step.constants)
    return result


def _by_pytorch(
    forward: Call, backward: Call, x: Tensor, gamma: Tensor, beta: Tensor, step: Step
) -> tuple[Tensor, ...]:
    from keras_renorm.ops import torch_derivatives

    def gradients(dy: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, *others: Tensor) -> Any:
        _, _, _, _, *mask, statistics = others
        return backward(dy, x, statistics, *mask)

    functions = torch_derivatives.Functions(forward, gradients, plain.output(step), kept=1)
    return torch_derivatives.apply(functions, x, gamma, beta, *step.constants)
