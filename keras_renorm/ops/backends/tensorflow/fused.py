"""Batch Renormalization by TensorFlow's fused batch norm: cuDNN's on a GPU.

Inference is one call. Training takes more. It runs here on a GPU, and on a CPU without the native
library. The kernel finds the batch's moments and normalises with them in one call, but r and d
depend on the moments. So a second call, with these moments given, applies gamma r and gamma d +
beta. A graph that is known to be plain batch norm (r_max 1, d_max 0) needs the first call only.

The kernel loses digits of a mean that is large beside the deviation: at mean 1e6 and deviation 1
the variance is off by 1e-3 and more. So float32 goes in as x - shift, where shift is the mean of a
few rows: one more pass, and one more tensor to keep. Half types need no shift. Their own rounding,
by 2^-11 or 2^-8 of the mean, adds more to the variance than float32 sums take from it.

On a CPU its sums are single chains of float32 additions: the variance is off by 2e-6 for 1e4
positions, 1e-5 for 1e5, 6e-5 for 4e5, and at mean 1e6 by ten times that. The other two lowerings
stay below 1e-6.

    x_hat, mean', var = fused(x - shift)        y = x_hat (gamma r) + (gamma d + beta)

With gamma r as its scale, the fused gradient is that of y with r and d held constant:
dx = (gamma r / sigma_B) (dy - mean(dy) - x_hat mean(dy x_hat)). Its sum s = sum dy x_hat gives
dgamma = r s + d sum dy.
"""

import functools
import math
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_renorm.ops.backends.kernels import Differentiable, PlainOutput
from keras_renorm.ops.backends.tensorflow import derivatives, devices, runtime
from keras_renorm.ops.maths import correction, passes
from keras_renorm.ops.maths.correction import Correction
from keras_renorm.ops.maths.moments import Moments, or_nan, two_sum
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings

# cuDNN refuses a smaller one.
_LEAST_EPSILON = 1.001e-5
_TYPES = (tf.float16, tf.bfloat16, tf.float32)


class Kept(NamedTuple):
    """What the gradient needs.

    Attributes:
        shifted: x - shift, or x, as images.
        reserved: Per-channel vectors of the fused kernel.
        correction: r and d, [channels].
        scale: gamma r, [channels].
        output: The output with a ReLU, whose sign is the gradient's mask; else None.
    """

    shifted: tf.Tensor
    reserved: tuple[tf.Tensor, ...]
    correction: Correction
    scale: tf.Tensor
    output: tf.Tensor | None


class TrainingKernel:
    """See `keras_renorm.ops.backends.kernels.FusedKernel`."""

    def fits(self, x: tf.Tensor, mask: tf.Tensor | None, settings: Settings) -> bool:
        """Whether nothing is masked, there are no ghosts, and the kernel takes the input.

        On a GPU it takes every type but float64, with the channels anywhere. Where XLA compiles, it
        stays out: XLA fuses plain operations as well and keeps more digits. On a CPU it takes
        float32 with the channels last.
        """
        whole = mask is None and settings.ghost_size is None
        if not whole or x.shape.rank is None or settings.epsilon < _LEAST_EPSILON:
            return False
        if devices.on_gpu():
            known = x.shape[settings.axis] is not None
            return known and x.dtype in _TYPES and not runtime.for_xla(x)
        return x.dtype == tf.float32 and _is_last(settings.axis, x)

    def train(
        self, arguments: Arguments, constants: Constants, settings: Settings, plain: PlainOutput
    ) -> tuple[tf.Tensor, Moments]:
        """The output and the moments, with derivatives."""
        function = Differentiable(
            functools.partial(forward, settings=settings),
            lambda dy, own, fixed, kept: backward(dy, kept, settings),
            plain,
        )
        y, *batch = derivatives.apply(function, arguments, constants)
        return y, Moments(*batch)


class InferenceKernel:
    """See `keras_renorm.ops.backends.kernels.FusedInference`."""

    def fits(self, x: tf.Tensor, settings: Settings) -> bool:
        """Whether `normalize` takes this input and is not slower than plain operations.

        The number of channels must be known, and the type not float64. The channels must be last,
        except on a GPU. In a graph [rows, channels] do not fit: no convolution comes before them,
        and reshaping costs 0.1 ms, which pays from 2 MB on only. Where XLA compiles, nothing fits:
        XLA makes y = x s + (offset - mean s) of the operation, which cancels (see `normalize`), and
        is as fast with plain operations.
        """
        return (
            x.shape.rank is not None
            and (_is_last(settings.axis, x) or devices.on_gpu())
            and x.shape[settings.axis] is not None
            and (x.shape.rank > 2 or tf.executing_eagerly())
            and x.dtype in _TYPES
            and settings.epsilon >= _LEAST_EPSILON
            and not runtime.for_xla(x)
        )

    def normalize(
        self, arguments: Arguments, mean: tf.Tensor, variance: tf.Tensor, settings: Settings
    ) -> tf.Tensor:
        """`y = (x - mean) gamma / sqrt(variance + epsilon) + beta`, as one operation.

        The operation has a gradient for x, gamma and beta. Behind a convolution in a graph,
        TensorFlow makes one operation of the two, and of a ReLU that follows. Elsewhere, where the
        statistics are constants of the graph (LiteRT, frozen graphs), it makes x s + (offset - mean
        s) of the operation: off by 6e-5 where the mean is 1e3 deviations, by 0.06 at 1e6.
        """
        x, gamma, beta = arguments
        images, data_format = _images(x, settings.axis)
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=settings.epsilon,
            data_format=data_format,
            is_training=False,
        )
        return _like(y, x, settings.axis)


def forward(
    arguments: Arguments, constants: Constants, settings: Settings
) -> tuple[tuple[tf.Tensor, ...], Kept]:
    """Batch Renormalization of a batch by its own moments.

    Returns:
        `((y, *moments), kept)`: output and moments, and what `backward` needs. A batch without rows
        has moments 0.
    """
    # An eager tape would keep the intermediate tensors, which have no gradient here.
    x, gamma, beta = arguments = Arguments(*map(tf.stop_gradient, arguments))
    shifted, shift, data_format = _shifted(x, settings.axis)
    known = {"x": shifted, "epsilon": settings.epsilon, "data_format": data_format}
    plain = _is_batch_norm(constants)
    ones, zeros = tf.ones_like(gamma), tf.zeros_like(gamma)
    first = {"scale": gamma, "offset": beta} if plain else {"scale": ones, "offset": zeros}
    y, mean, unbiased, *reserved = tf.raw_ops.FusedBatchNormV3(
        mean=[], variance=[], **first, **known
    )
    batch = _moments(_positions(x, settings.axis), shift, mean, unbiased)
    found = correction.of_step(batch, constants, settings)
    scale, offset = correction.scale_and_offset(found, arguments, found.r)
    if not plain:
        given = {"mean": mean, "variance": batch.variance, "is_training": False}
        y, *_ = tf.raw_ops.FusedBatchNormV3(scale=scale, offset=offset, **given, **known)
    y = tf.nn.relu(y) if settings.relu else y
    kept = Kept(shifted, tuple(reserved), found, scale, y if settings.relu else None)
    return (_like(y, x, settings.axis), *batch), kept


def backward(dy: tf.Tensor, kept: Kept, settings: Settings) -> Arguments:
    """Gradients of `forward`, r and d held constant."""
    images, data_format = _images(dy, settings.axis)
    if kept.output is not None:
        images = passes.relu_gradient(images, kept.output)
    dx, dx_hat, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=images,
        x=kept.shifted,
        scale=kept.scale,
        reserve_space_1=kept.reserved[0],
        reserve_space_2=kept.reserved[1],
        reserve_space_3=kept.reserved[2],
        epsilon=settings.epsilon,
        data_format=data_format,
    )
    r, d = kept.correction
    return Arguments(_like(dx, dy, settings.axis), r * dx_hat + d * dbeta, dbeta)


def _is_last(axis: int, x: tf.Tensor) -> bool:
    return x.shape.rank is not None and axis == x.shape.rank - 1


def _is_batch_norm(constants: Constants) -> bool:
    """Whether a graph is traced with limits that are known to leave r at 1 and d at 0.

    An eager program would wait for a GPU to give the limits.
    """
    if tf.executing_eagerly():
        return False
    limits = map(tf.get_static_value, (constants.r_max, constants.d_max))
    return all(k is not None and k <= least for k, least in zip(limits, (1, 0), strict=True))


def _moments(
    count: tf.Tensor, shift: tf.Tensor, shifted_mean: tf.Tensor, unbiased: tf.Tensor
) -> Moments:
    """The moments of `x` from those of `x - shift`, or zeros without rows."""
    # Not from the reserved vector: on a CPU it is the biased variance, by cuDNN 1 / sigma_B.
    zeros = tf.zeros_like(shift)
    biased = unbiased * ((count - 1) / tf.maximum(count, 1))
    variance = tf.where(count > 1, or_nan(biased), zeros)
    mean, remainder = (tf.where(count < 1, zeros, v) for v in two_sum(shift, shifted_mean))
    return Moments(mean, variance, tf.fill(tf.shape(shift), count), remainder)


def _positions(x: tf.Tensor, axis: int) -> tf.Tensor:
    """The number of positions of each channel."""
    return tf.cast(tf.size(x, tf.int64), tf.float32) / tf.cast(x.shape[axis], tf.float32)


def _images(x: tf.Tensor, axis: int) -> tuple[tf.Tensor, str]:
    """`x` as images, and where their channels are."""
    if _is_last(axis, x):
        # Not [positions, 1, 1, channels]: cuDNN takes at most 65,535 images.
        images = x if x.shape.rank == 4 else tf.reshape(x, [1, 1, -1, x.shape[-1]])
        return images, "NHWC"
    if x.shape.rank == 4 and axis == 1:
        return x, "NCHW"
    return tf.expand_dims(_parts(x, axis), -1), "NCHW"


def _parts(x: tf.Tensor, axis: int) -> tf.Tensor:
    """Reshapes to [positions before the channels' axis, channels, positions after it]."""
    sizes = keras.ops.shape(x)

    return tf.reshape(x, [math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])])


def _like(images: tf.Tensor, x: tf.Tensor, axis: int) -> tf.Tensor:
    """Reshapes images to the shape of `x`."""
    if x.shape.rank == 4 and axis in (1, 3):
        return images
    sizes = [-1 if size is None else size for size in x.shape]
    if sizes.count(-1) > 1 or 0 in sizes:  # found as the graph runs: two more operations
        return tf.ensure_shape(tf.reshape(images, tf.shape(x)), x.shape)
    return tf.reshape(images, sizes)


def _shifted(x: tf.Tensor, axis: int) -> tuple[tf.Tensor, tf.Tensor, str]:
    """`x - shift` as images, the shift, and where the channels are. Half types have shift 0."""
    images, data_format = _images(x, axis)
    if x.dtype != tf.float32:
        return images, tf.zeros([x.shape[axis]]), data_format
    shift = _shift(_parts(x, axis))
    spread = shift if data_format == "NHWC" else tf.reshape(shift, [-1, 1, 1])
    return images - spread, shift, data_format


def _shift(parts: tf.Tensor) -> tf.Tensor:
    """The mean of evenly spaced rows, about the square root of their number; 0 without rows.

    The first row alone may be an outlier. The mean of x - shift would then be as large again.
    """
    steps = tf.maximum(tf.cast(tf.sqrt(tf.cast(tf.shape(parts), tf.float32)), tf.int32), 1)
    sample = parts[:: steps[0], :, :: steps[2]]
    # A stride in a graph loses the rank.
    sample = tf.ensure_shape(sample, [None, parts.shape[1], None])
    return tf.math.divide_no_nan(tf.reduce_sum(sample, [0, 2]), _positions(sample, 1))
