"""A step in operations that the backend differentiates, and their derivatives for the others."""

import functools
from collections.abc import Callable

import keras

from keras_renorm.ops import arguments
from keras_renorm.ops.backends.tensorflow.derivatives import differentiable
from keras_renorm.ops.maths import passes as composite
from keras_renorm.ops.maths.moments import Moments, without_masked_gradients
from keras_renorm.ops.steps.ghosts import in_ghosts
from keras_renorm.ops.steps.step import Step
from keras_renorm.typing import Tensor


def take(x: Tensor, gamma: Tensor, beta: Tensor, step: Step) -> tuple[Tensor, Moments]:
    """The step in operations that the backend differentiates, as often as one likes.

    Args:
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    if step.ghost_size is not None:
        return in_ghosts(take, x, gamma, beta, step)
    dtype = x.dtype
    # Once, and so is its gradient rounded: parts of it, which cancel, are not fit for half types.
    x = keras.ops.cast(x, arguments.wide(dtype))
    batch = composite.moments(x, step.axis, step.mask, ghosts=step.ghosts)
    r, d = step.correction(batch)
    scale = gamma * (r / keras.ops.sqrt(batch.variance + step.epsilon))
    affine = batch.mean, batch.mean_remainder, scale, gamma * d + beta

    def output(x: Tensor) -> Tensor:
        return composite.normalize(x, *affine, axis=step.axis, relu=step.relu)

    y = keras.ops.cast(without_masked_gradients(step.mask, output, x), dtype)
    return y, Moments(*(keras.ops.stop_gradient(value) for value in batch))


def gradient(
    fast: Callable[..., tuple[Tensor, ...]], step: Step, *, refusal: str | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """`fast(dy, x, gamma, beta)`, a gradient of the step, with the derivatives of this one's."""
    return differentiable(fast, output(step), step.constants, refusal=refusal)


def output(step: Step) -> Callable[..., Tensor]:
    """The output as a function of `(x, gamma, beta, *step.constants)`; the same for like steps."""
    return _output(step.axis, step.epsilon, step.relu, step.ghost_size, step.ghosts)


@functools.cache
def _output(
    axis: int, epsilon: float, relu: bool, ghost_size: int | None, ghosts: bool
) -> Callable[..., Tensor]:
    def output(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Tensor:
        mean, variance, r_max, d_max, *masks = constants
        step = Step(
            moving_mean=mean,
            moving_variance=variance,
            r_max=r_max,
            d_max=d_max,
            mask=masks[0] if masks else None,
            axis=axis,
            epsilon=epsilon,
            relu=relu,
            ghost_size=ghost_size,
            ghosts=ghosts,
        )
        y, _ = take(x, gamma, beta, step)
        return y

    return output
