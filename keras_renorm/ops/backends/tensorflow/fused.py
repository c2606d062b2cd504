"""Batch Renormalization by TensorFlow's fused batch norm.

Inference is one call of it. Training takes more, and is here where the native library is missing.
The fused kernel then normalises with the batch's moments in the call that finds them, so r and d,
which depend on them, are applied in one more pass. It also loses digits of a mean that is large
beside the deviation (at mean 1e6 and deviation 1 the variance is off by 1e-3 and more), so it is
given x - shift, with the mean of a few rows as shift: one more pass, and one more tensor to keep.

Its sums are single chains of float32 additions: the variance is off by 2e-6 for 1e4 positions, 1e-5
for 1e5, 6e-5 for 4e5, and at mean 1e6 by ten times that. The other two lowerings stay below 1e-6.

    x_hat, mean', var = fused(x - shift)        y = x_hat (gamma r) + (gamma d + beta)

With gamma r as its scale the fused gradient is that of y with r and d held constant:
dx = (gamma r / sigma_B) (dy - mean(dy) - x_hat mean(dy x_hat)); and with its sum s = sum dy x_hat,
dgamma = r s + d sum dy.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_renorm.ops.backends.tensorflow import runtime as tensorflow_runtime
from keras_renorm.ops.backends.tensorflow.derivatives import held
from keras_renorm.ops.maths.moments import Moments, two_sum
from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.step import Step

# cuDNN refuses less.
_LEAST_EPSILON = 1.001e-5


class Saved(NamedTuple):
    """What `backward` needs of `forward`.

    Attributes:
        shifted: x - shift, [positions, 1, 1, channels].
        reserved: Per-channel vectors of the fused kernel.
        r: [channels].
        d: [channels].
        scale: gamma r, [channels].
        output: The output, kept with relu only, where its sign is the gradient's mask.
    """

    shifted: tf.Tensor
    reserved: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    r: tf.Tensor
    d: tf.Tensor
    scale: tf.Tensor
    output: tf.Tensor | None


class Result(NamedTuple):
    """Output and moments of a batch, vectors of [channels].

    Attributes:
        y: The output, like x.
        mean: Mean, rounded.
        mean_remainder: What rounding took from it.
        variance: Biased variance.
        count: Number of positions.
        saved: For `backward`.
    """

    y: tf.Tensor
    mean: tf.Tensor
    mean_remainder: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor
    saved: Saved


def fits(x: tf.Tensor, *, axis: int, epsilon: float, weighted: bool, ghosts: bool) -> bool:
    """Whether `forward` can take this input: float32, channels last, nothing masked, no ghosts."""
    last = x.shape.rank is not None and axis == x.shape.rank - 1
    return (
        x.dtype == tf.float32 and last and not weighted and not ghosts and epsilon >= _LEAST_EPSILON
    )


def fits_inference(x: tf.Tensor, *, axis: int, epsilon: float) -> bool:
    """Whether `normalize` can take this input, and is not the slower for it.

    The channels have to come last and be of known number, the type not be float64. In a graph not
    [rows, channels]: no convolution comes before it, and reshaping costs 0.1 ms, which is won back
    from 2 MB on only. And not where XLA compiles: it makes y = x s + (offset - mean s) of the
    operation, which cancels (see `normalize`), and is as fast with plain operations.
    """
    last = x.shape.rank is not None and axis == x.shape.rank - 1
    return (
        last
        and x.shape[-1] is not None
        and (x.shape.rank > 2 or tf.executing_eagerly())
        and x.dtype in (tf.float16, tf.bfloat16, tf.float32)
        and epsilon >= _LEAST_EPSILON
        and not tensorflow_runtime.for_xla(x)
    )


def normalize(
    x: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    *,
    epsilon: float,
) -> tf.Tensor:
    """`y = (x - mean) gamma / sqrt(variance + epsilon) + beta`, as one operation.

    It has a gradient for x, gamma and beta. Behind a convolution in a graph, TensorFlow makes one
    operation of the two, and of a ReLU that follows. Elsewhere, where the statistics are constants
    of the graph (LiteRT, frozen graphs), it makes x s + (offset - mean s) of it: off by 6e-5 where
    the mean is 1e3 deviations, by 0.06 at 1e6.

    Args:
        x: [..., channels], float16, bfloat16 or float32.
        mean: [channels], float32, as are all the following.
        variance: [channels].
        gamma: [channels].
        beta: [channels].
        epsilon: Added to the variance, at least 1.001e-5.
    """
    images = x.shape.rank == 4
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        # Not [positions, 1, 1, channels]: cuDNN takes 65,535 images at most.
        x=x if images else tf.reshape(x, [1, 1, -1, x.shape[-1]]),
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )
    return y if images else _like(y, x)


def _rows(x: tf.Tensor) -> tf.Tensor:
    """Reshapes [..., channels] to [positions, 1, 1, channels]."""
    return tf.reshape(x, [-1, 1, 1, x.shape[-1]])


def _like(rows: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Reshapes rows of channels to the shape of x."""
    sizes = [-1 if size is None else size for size in x.shape]
    if sizes.count(-1) > 1 or 0 in sizes:  # to be asked for as the graph runs: two operations more
        return tf.ensure_shape(tf.reshape(rows, tf.shape(x)), x.shape)
    return tf.reshape(rows, sizes)


def _shift(rows: tf.Tensor) -> tf.Tensor:
    """Mean of about the square root of the number of rows, evenly spaced; of no rows, zero.

    The first row alone may be an outlier, which would leave all rows with a mean as large again.
    """
    count = tf.cast(tf.shape(rows)[0], tf.float32)
    sample = rows[:: tf.maximum(tf.cast(tf.sqrt(count), tf.int32), 1)]
    return tf.math.divide_no_nan(
        tf.reduce_sum(sample, [0, 1, 2]), tf.cast(tf.shape(sample)[0], tf.float32)
    )


def forward(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    moving_mean: tf.Tensor,
    moving_variance: tf.Tensor,
    r_max: tf.Tensor,
    d_max: tf.Tensor,
    *,
    epsilon: float,
    relu: bool = False,
) -> Result:
    """Batch Renormalization of [..., channels], float32, by its own moments.

    Args:
        x: [..., channels].
        gamma: [channels], float32, as are all the following.
        beta: [channels].
        moving_mean: [channels].
        moving_variance: [channels].
        r_max: Scalar; a value below 1 counts as 1.
        d_max: Scalar; a value below 0 counts as 0.
        epsilon: Added to both variances, at least 1.001e-5.
        relu: Whether to take the positive part of y.

    Returns:
        Output and moments. The moments of a batch without rows are 0.
    """
    rows = _rows(x)
    count = tf.cast(tf.shape(rows)[0], tf.float32)
    empty = count < 1
    shift = _shift(rows)
    shifted = rows - shift
    ones, zeros = tf.ones_like(gamma), tf.zeros_like(gamma)
    x_hat, _, _, *reserved = tf.raw_ops.FusedBatchNormV3(
        x=shifted, scale=ones, offset=zeros, mean=[], variance=[], epsilon=epsilon
    )
    mean, remainder = two_sum(shift, reserved[0])
    mean, remainder = tf.where(empty, zeros, mean), tf.where(empty, zeros, remainder)
    variance = tf.where(empty, zeros, reserved[1])
    sigma = tf.sqrt(moving_variance + epsilon)
    r_max, d_max = tf.maximum(r_max, 1), tf.maximum(d_max, 0)
    r = tf.clip_by_value(tf.sqrt(variance + epsilon) / sigma, 1 / r_max, r_max)
    d = tf.clip_by_value(((mean - moving_mean) + remainder) / sigma, -d_max, d_max)
    y = x_hat * (gamma * r) + (gamma * d + beta)
    y = tf.nn.relu(y) if relu else y
    saved = Saved(shifted, tuple(reserved), r, d, gamma * r, y if relu else None)
    y = _like(y, x)
    return Result(y, mean, remainder, variance, tf.fill(tf.shape(gamma), count), saved)


def backward(
    dy: tf.Tensor, saved: Saved, *, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients of `forward` for x, gamma and beta, r and d held constant.

    Args:
        dy: Gradient of the output.
        saved: What `forward` kept.
        epsilon: As there.
    """
    rows = _rows(dy)
    if saved.output is not None:
        rows = tf.raw_ops.ReluGrad(gradients=rows, features=saved.output)
    dx, dx_hat, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=rows,
        x=saved.shifted,
        scale=saved.scale,
        reserve_space_1=saved.reserved[0],
        reserve_space_2=saved.reserved[1],
        reserve_space_3=saved.reserved[2],
        epsilon=epsilon,
    )
    return _like(dx, dy), saved.r * dx_hat + saved.d * dbeta, dbeta


def take(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, step: Step) -> tuple[tf.Tensor, Moments]:
    """The step, with derivatives.

    Args:
        x: Tensor `[..., C]`, float32.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest, without a mask.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    moving = step.moving_mean, step.moving_variance
    limits = step.r_max, step.d_max

    @keras.ops.custom_gradient
    def outputs(*arguments: tf.Tensor) -> Any:
        x, gamma, beta = held(arguments)
        result = forward(x, gamma, beta, *moving, *limits, epsilon=step.epsilon, relu=step.relu)

        def fast(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return backward(dy, result.saved, epsilon=step.epsilon)

        def gradients(dy: tf.Tensor, *_: Any) -> Any:
            return plain.gradient(fast, step)(dy, *arguments)

        return tuple(result[:5]), gradients

    y, *batch = outputs(x, gamma, beta)
    mean, remainder, variance, count = (keras.ops.stop_gradient(value) for value in batch)
    return y, Moments(mean, variance, count, remainder)
