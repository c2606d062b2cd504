"""A step a pass over the tensor at a time, over one replica or several."""

import functools
from types import ModuleType
from typing import Any

import keras

from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.backends.tensorflow.derivatives import held
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.sums import at_least
from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.ghosts import in_ghosts
from keras_renorm.ops.steps.step import Step
from keras_renorm.typing import Tensor

_OF_REPLICAS = (
    "The gradient of a normalization synchronized over several replicas cannot be differentiated "
    "again. Write synchronized=False where second derivatives are needed."
)


def take(
    passes: ModuleType,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    step: Step,
    replicas: Replicas | None,
) -> tuple[Tensor, Moments]:
    """The step, a pass over the tensor at a time.

    Args:
        passes: `moments`, `normalize`, `gradient_sums` and `input_gradient`, as in
            `keras_renorm.ops.maths.passes`.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        replicas: Those whose positions make up the minibatch together; None for this one alone.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    if step.ghost_size is not None:
        whole = functools.partial(take, passes, replicas=replicas)
        return in_ghosts(whole, x, gamma, beta, step)
    own = {"ghosts": True} if step.ghosts else {}
    batch = passes.moments(keras.ops.stop_gradient(x), step.axis, step.mask, **own)
    if replicas is not None:
        batch = replicas.merge(batch)
    correction = step.correction(batch)
    options = {"axis": step.axis, "relu": step.relu}  # annotated, AutoGraph could not take it

    mean, variance, count, remainder = batch
    r, d = correction
    inverse = 1 / keras.ops.sqrt(variance + step.epsilon)
    refusal = None if replicas is None else _OF_REPLICAS

    @keras.ops.custom_gradient
    def forward(*arguments: Tensor) -> Any:
        x, gamma, beta = held(arguments)
        scale = gamma * (inverse * r)
        affine = mean, remainder, scale, gamma * d + beta

        def fast(dy: Tensor, x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
            sum_dy, sum_dy_centred = passes.gradient_sums(dy, x, *affine, step.mask, **options)
            dgamma, dbeta = inverse * r * sum_dy_centred + d * sum_dy, sum_dy
            if step.ghosts:
                dgamma, dbeta = keras.ops.sum(dgamma, axis=0), keras.ops.sum(dbeta, axis=0)
            if replicas is not None:  # x acts on the outputs of all, through the moments
                sum_dy, sum_dy_centred = replicas.add(sum_dy, sum_dy_centred)
            m = at_least(1, count)
            bias = scale * (sum_dy / m)
            slope = scale * (inverse * inverse * sum_dy_centred / m)
            dx = passes.input_gradient(dy, x, *affine, bias, slope, step.mask, **options)
            return dx, dgamma, dbeta

        def backward(dy: Tensor) -> tuple[Tensor, ...]:
            return plain.gradient(fast, step, refusal=refusal)(dy, *arguments)

        return passes.normalize(x, *affine, **options), backward

    return forward(x, gamma, beta), batch
