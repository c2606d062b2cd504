"""A step of training: moments, corrections and output, and the gradient of the paper."""

import dataclasses
from types import ModuleType
from typing import Any

import keras

from keras_renorm.ops.correction import renorm_correction
from keras_renorm.ops.moments import Moments
from keras_renorm.ops.replicas import Replicas
from keras_renorm.typing import Tensor


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step knows beside the tensors that have a gradient.

    Attributes:
        moving_mean: `[C]`, before the update.
        moving_variance: `[C]`, before the update.
        r_max: Scalar tensor of at least 1.
        d_max: Scalar tensor of at least 0.
        mask: None, or booleans that broadcast against the input.
        axis: The axis of the channels, counted from the front.
        epsilon: Added to the variances.
        relu: Whether to take the positive part of the output.
    """

    moving_mean: Tensor
    moving_variance: Tensor
    r_max: Tensor
    d_max: Tensor
    mask: Tensor | None
    axis: int
    epsilon: float
    relu: bool


def in_passes(
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
            `keras_renorm.ops.composite`.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        replicas: Those whose positions make up the minibatch together; None for this one alone.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    batch = passes.moments(keras.ops.stop_gradient(x), step.axis, step.mask)
    if replicas is not None:
        batch = replicas.merge(batch)
    correction = renorm_correction(
        batch,
        step.moving_mean,
        step.moving_variance,
        r_max=step.r_max,
        d_max=step.d_max,
        epsilon=step.epsilon,
    )
    options = {"axis": step.axis, "relu": step.relu}

    # Everything is an argument, since JAX cannot close over values under differentiation. Only x,
    # gamma and beta have a gradient; one output, since Keras's torch backend allows no more.
    @keras.ops.custom_gradient
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Any:
        mean, variance, count, remainder, r, d, *given_mask = constants
        mask = given_mask[0] if given_mask else None
        inverse = 1 / keras.ops.sqrt(variance + step.epsilon)
        affine = mean, remainder, gamma * (inverse * r), gamma * d + beta
        scale = affine[2]

        def backward(*args: Tensor, upstream: Tensor | None = None) -> tuple[Any, ...]:
            dy = args[0] if upstream is None else upstream  # torch passes it by keyword
            sum_dy, sum_dy_centred = passes.gradient_sums(dy, x, *affine, mask, **options)
            dgamma, dbeta = inverse * r * sum_dy_centred + d * sum_dy, sum_dy
            if replicas is not None:  # x acts on the outputs of all, through the moments
                sum_dy, sum_dy_centred = replicas.add(sum_dy, sum_dy_centred)
            m = keras.ops.maximum(count, 1)
            bias = scale * (sum_dy / m)
            slope = scale * (inverse * inverse * sum_dy_centred / m)
            dx = passes.input_gradient(dy, x, *affine, bias, slope, mask, **options)
            return dx, dgamma, dbeta, *(None for _ in constants)

        return passes.normalize(x, *affine, **options), backward

    masks = [] if step.mask is None else [step.mask]
    return forward(x, gamma, beta, *batch, *correction, *masks), batch
