"""A step of training: moments, corrections and output, and the gradient of the paper.

Three lowerings, which give the same numbers: `in_one_call` of the native library, `in_passes` of
plain or native operations, and `by_the_fused_kernel` of TensorFlow.
"""

import dataclasses
from types import ModuleType
from typing import Any

import keras

from keras_renorm.ops import composite, lowerings
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


def take(
    x: Tensor, gamma: Tensor, beta: Tensor, step: Step, *, synchronized: bool
) -> tuple[Tensor, Moments]:
    """The step in the lowering that `keras_renorm.ops.lowering` tells.

    Args:
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        synchronized: Whether the minibatch is that of all replicas together.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    replicas = Replicas.running() if synchronized else None
    weighted = step.mask is not None
    name = lowerings.choose(x, axis=step.axis, epsilon=step.epsilon, weighted=weighted)
    if replicas is None and name == "native":
        return in_one_call(lowerings.native_calls(), x, gamma, beta, step)
    if replicas is None and name == "fused":
        return by_the_fused_kernel(x, gamma, beta, step)
    passes = lowerings.native_passes() if name == "native" else composite
    return in_passes(passes, x, gamma, beta, step, replicas)


def in_one_call(
    calls: ModuleType, x: Tensor, gamma: Tensor, beta: Tensor, step: Step
) -> tuple[Tensor, Moments]:
    """The step as one call of the native library forwards and one backwards.

    Args:
        calls: `forward` and `backward`, as in `keras_renorm.ops.xla.tensorflow_calls`.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    options = {"axis": step.axis, "relu": step.relu}

    @keras.ops.custom_gradient
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Any:
        mask = constants[4:]
        outputs = calls.forward(x, gamma, beta, *constants, epsilon=step.epsilon, **options)

        def backward(*upstream: Any) -> tuple[Any, ...]:
            # TensorFlow passes the outputs' gradients one by one, JAX as one tuple.
            dy = upstream[0][0] if isinstance(upstream[0], tuple) else upstream[0]
            gradients = calls.backward(dy, x, outputs[1], *mask, **options)
            return *gradients, *(None for _ in constants)

        return outputs, backward

    masks = [] if step.mask is None else [step.mask]
    constants = step.moving_mean, step.moving_variance, step.r_max, step.d_max, *masks
    y, statistics = forward(x, gamma, beta, *constants)
    found = keras.ops.unstack(keras.ops.stop_gradient(statistics)[:4, 0], 4)
    mean, remainder, variance, count = found
    return y, Moments(mean, variance, count, remainder)


def by_the_fused_kernel(
    x: Tensor, gamma: Tensor, beta: Tensor, step: Step
) -> tuple[Tensor, Moments]:
    """The step by TensorFlow's fused batch norm; see `keras_renorm.ops.fused`.

    Args:
        x: Tensor `[..., C]`, float32.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest, without a mask.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    from keras_renorm.ops import fused

    moving = step.moving_mean, step.moving_variance
    limits = step.r_max, step.d_max

    @keras.ops.custom_gradient
    def forward(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        result = fused.forward(
            x, gamma, beta, *moving, *limits, epsilon=step.epsilon, relu=step.relu
        )

        def backward(dy: Tensor, *_: Any) -> tuple[Tensor, ...]:
            return fused.backward(dy, result.saved, epsilon=step.epsilon)

        return tuple(result[:5]), backward

    y, *batch = forward(x, gamma, beta)
    mean, remainder, variance, count = (keras.ops.stop_gradient(value) for value in batch)
    return y, Moments(mean, variance, count, remainder)


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
