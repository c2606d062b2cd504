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

from typing import NamedTuple

import tensorflow as tf

from keras_renorm.ops.backends.interface import Differentiable, PlainOutput
from keras_renorm.ops.backends.tensorflow import derivatives, runtime
from keras_renorm.ops.maths import correction
from keras_renorm.ops.maths.correction import Correction
from keras_renorm.ops.maths.moments import Moments, or_nan, two_sum
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings

# cuDNN refuses less.
_LEAST_EPSILON = 1.001e-5


class Kept(NamedTuple):
    """What the gradient needs.

    Attributes:
        shifted: x - shift, [positions, 1, 1, channels].
        reserved: Per-channel vectors of the fused kernel.
        correction: r and d, [channels].
        scale: gamma r, [channels].
        output: The output, kept with a ReLU only, where its sign is the gradient's mask.
    """

    shifted: tf.Tensor
    reserved: tuple[tf.Tensor, ...]
    correction: Correction
    scale: tf.Tensor
    output: tf.Tensor | None


class TrainingKernel:
    """See `keras_renorm.ops.backends.interface.FusedKernel`."""

    def fits(self, x: tf.Tensor, mask: tf.Tensor | None, settings: Settings) -> bool:
        """Whether it is float32, channels last, with nothing masked and no ghosts."""
        return (
            x.dtype == tf.float32
            and _is_last(settings.axis, x)
            and mask is None
            and settings.ghost_size is None
            and settings.epsilon >= _LEAST_EPSILON
        )

    def train(
        self, arguments: Arguments, constants: Constants, settings: Settings, plain: PlainOutput
    ) -> tuple[tf.Tensor, Moments]:
        """The output and the moments, with derivatives."""

        def forward_of(own: Arguments, fixed: Constants) -> tuple[tuple[tf.Tensor, ...], Kept]:
            return forward(own, fixed, settings)

        def backward_of(dy: tf.Tensor, own: Arguments, fixed: Constants, kept: Kept) -> Arguments:
            return backward(dy, kept, settings)

        function = Differentiable(forward_of, backward_of, plain)
        y, *batch = derivatives.apply(function, arguments, constants)
        return y, Moments(*batch)


class InferenceKernel:
    """See `keras_renorm.ops.backends.interface.FusedInference`."""

    def fits(self, x: tf.Tensor, settings: Settings) -> bool:
        """Whether `normalize` can take this input, and is not the slower for it.

        The channels have to come last and be of known number, the type not be float64. In a graph
        not [rows, channels]: no convolution comes before it, and reshaping costs 0.1 ms, which is
        won back from 2 MB on only. And not where XLA compiles: it makes y = x s + (offset - mean s)
        of the operation, which cancels (see `normalize`), and is as fast with plain operations.
        """
        return (
            _is_last(settings.axis, x)
            and x.shape[-1] is not None
            and (x.shape.rank > 2 or tf.executing_eagerly())
            and x.dtype in (tf.float16, tf.bfloat16, tf.float32)
            and settings.epsilon >= _LEAST_EPSILON
            and not runtime.for_xla(x)
        )

    def normalize(
        self, arguments: Arguments, mean: tf.Tensor, variance: tf.Tensor, settings: Settings
    ) -> tf.Tensor:
        """`y = (x - mean) gamma / sqrt(variance + epsilon) + beta`, as one operation.

        It has a gradient for x, gamma and beta. Behind a convolution in a graph, TensorFlow makes
        one operation of the two, and of a ReLU that follows. Elsewhere, where the statistics are
        constants of the graph (LiteRT, frozen graphs), it makes x s + (offset - mean s) of it: off
        by 6e-5 where the mean is 1e3 deviations, by 0.06 at 1e6.
        """
        x, gamma, beta = arguments
        images = x.shape.rank == 4
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            # Not [positions, 1, 1, channels]: cuDNN takes 65,535 images at most.
            x=x if images else tf.reshape(x, [1, 1, -1, x.shape[-1]]),
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=settings.epsilon,
            is_training=False,
        )
        return y if images else _like(y, x)


def forward(
    arguments: Arguments, constants: Constants, settings: Settings
) -> tuple[tuple[tf.Tensor, ...], Kept]:
    """Batch Renormalization of [..., channels], float32, by its own moments.

    Returns:
        `((y, *moments), kept)`: output and moments, and what `backward` needs. The moments of a
        batch without rows are 0.
    """
    # An eager tape would keep what lies between, which has no gradient here.
    x, gamma, _ = arguments = Arguments(*map(tf.stop_gradient, arguments))
    rows = _rows(x)
    shift = _shift(rows)
    shifted = rows - shift
    ones, zeros = tf.ones_like(gamma), tf.zeros_like(gamma)
    x_hat, _, _, *reserved = tf.raw_ops.FusedBatchNormV3(
        x=shifted, scale=ones, offset=zeros, mean=[], variance=[], epsilon=settings.epsilon
    )
    batch = _moments(tf.cast(tf.shape(rows)[0], tf.float32), shift, *reserved[:2])
    found = correction.of_step(batch, constants, settings)
    _, _, scale, offset = correction.affine(found, batch, arguments, found.r)
    y = x_hat * scale + offset
    y = tf.nn.relu(y) if settings.relu else y
    kept = Kept(shifted, tuple(reserved), found, scale, y if settings.relu else None)
    return (_like(y, x), *batch), kept


def backward(dy: tf.Tensor, kept: Kept, settings: Settings) -> Arguments:
    """Gradients of `forward`, r and d held constant."""
    rows = _rows(dy)
    if kept.output is not None:
        rows = tf.raw_ops.ReluGrad(gradients=rows, features=kept.output)
    dx, dx_hat, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=rows,
        x=kept.shifted,
        scale=kept.scale,
        reserve_space_1=kept.reserved[0],
        reserve_space_2=kept.reserved[1],
        reserve_space_3=kept.reserved[2],
        epsilon=settings.epsilon,
    )
    r, d = kept.correction
    return Arguments(_like(dx, dy), r * dx_hat + d * dbeta, dbeta)


def _is_last(axis: int, x: tf.Tensor) -> bool:
    return x.shape.rank is not None and axis == x.shape.rank - 1


def _moments(
    count: tf.Tensor, shift: tf.Tensor, shifted_mean: tf.Tensor, variance: tf.Tensor
) -> Moments:
    """The moments of `x` from those of `x - shift`; without a row, zeros."""
    zeros = tf.zeros_like(shift)
    found = (*two_sum(shift, shifted_mean), or_nan(variance))
    mean, remainder, variance = (tf.where(count < 1, zeros, value) for value in found)
    return Moments(mean, variance, tf.fill(tf.shape(shift), count), remainder)


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
    sample = tf.ensure_shape(sample, [None, *rows.shape[1:]])  # a stride in a graph loses the rank
    return tf.math.divide_no_nan(
        tf.reduce_sum(sample, [0, 1, 2]), tf.cast(tf.shape(sample)[0], tf.float32)
    )
