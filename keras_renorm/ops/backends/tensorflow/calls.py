"""The native kernels as functions of TensorFlow tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_renorm.ops.backends.tensorflow import runtime as tensorflow_runtime
from keras_renorm.ops.backends.tensorflow import stablehlo
from keras_renorm.ops.native import loader

Sizes = Sequence[int | stablehlo.Quotient | None]

_ELEMENTS = {
    tf.float16: "f16",
    tf.bfloat16: "bf16",
    tf.float32: "f32",
    tf.float64: "f64",
    tf.bool: "i1",
}


class Forward(NamedTuple):
    """What `forward` returns.

    Attributes:
        y: The output, like x.
        statistics: [9, ghosts, channels], for `unpack` and `backward`.
        moving_mean: [channels], after the update.
        moving_variance: [channels], after the update.
        updated: Scalar, 1 where a channel was updated, or else 0.
    """

    y: tf.Tensor
    statistics: tf.Tensor
    moving_mean: tf.Tensor
    moving_variance: tf.Tensor
    updated: tf.Tensor


class Statistics(NamedTuple):
    """What `forward` found and used, per ghost batch and channel: each [ghosts, channels].

    Attributes:
        mean: Mean of the batch, rounded.
        mean_remainder: What rounding took from it; the sum of both is the mean.
        variance: Biased variance of the batch.
        count: Number, or total weight, of the positions that counted.
        r: The paper's r, clipped.
        d: The paper's d, clipped.
        scale: gamma r / sigma_B.
        offset: gamma d + beta.
        inverse: 1 / sigma_B, with sigma_B = sqrt(variance + epsilon).
    """

    mean: tf.Tensor
    mean_remainder: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor
    r: tf.Tensor
    d: tf.Tensor
    scale: tf.Tensor
    offset: tf.Tensor
    inverse: tf.Tensor


def unpack(statistics: tf.Tensor) -> Statistics:
    """Splits packed statistics [9, ghosts, channels] into its rows."""
    return Statistics(*tf.unstack(statistics, loader.STATISTICS))


def wide(dtype: tf.DType) -> tf.DType:
    """Returns the type of the per-channel operands: float64 for float64, else float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def _type(dtype: tf.DType, shape: Sizes) -> stablehlo.Type:
    """Returns a tensor's StableHLO type, as far as its shape is known."""
    sizes = (stablehlo.DYNAMIC if size is None else size for size in shape)
    return stablehlo.Type(_ELEMENTS[dtype], tuple(sizes))


def _shape(sizes: Sizes) -> tf.TensorShape:
    """Returns a result's shape, as far as it is known."""
    return tf.TensorShape([size if isinstance(size, int) else None for size in sizes])


def _call(
    name: str,
    operands: list[tf.Tensor],
    results: list[tuple[tf.DType, Sizes]],
    *,
    axis: int,
    ghost_size: int | None = None,
    relu: bool = False,
    epsilon: float = 0.0,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> list[tf.Tensor]:
    """Makes a call of the library."""
    tensorflow_runtime.register()
    attributes = loader.attributes(axis, ghost_size, relu, epsilon, momentum, by_stddev)
    dtypes = [dtype for dtype, _ in results]
    shapes = [_shape(sizes) for _, sizes in results]
    operands = [tf.convert_to_tensor(operand) for operand in operands]
    if not tensorflow_runtime.for_xla(*operands):
        return tensorflow_runtime.call_op(name, operands, dtypes, shapes, attributes)
    module = stablehlo.custom_call(
        loader.target(name),
        tuple(_type(operand.dtype, operand.shape.as_list()) for operand in operands),
        tuple(_type(dtype, sizes) for dtype, sizes in results),
        tuple(attributes.items()),
    )
    return tensorflow_runtime.call_module(operands, module, dtypes, shapes)


def _optional(weights: tf.Tensor | None, x: tf.Tensor, axis: int) -> list[tf.Tensor]:
    """The last operand, where there is one: a value per element, or per position of `x`."""
    if weights is None:
        return []
    if weights.dtype != tf.bool:
        weights = tf.cast(weights, tf.float32)
    static = x.shape.as_list()
    static[axis] = weights.shape[axis]
    if None in static or weights.shape != static:  # the kernels see sizes, and know no broadcasting
        shape = tf.unstack(tf.shape(x))
        shape[axis] = tf.shape(weights)[axis]
        weights = tf.ensure_shape(tf.broadcast_to(weights, shape), static)
    return [weights]


def forward(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    moving_mean: tf.Tensor,
    moving_variance: tf.Tensor,
    r_max: tf.Tensor,
    d_max: tf.Tensor,
    weights: tf.Tensor | None = None,
    *,
    axis: int,
    epsilon: float,
    relu: bool = False,
    ghost_size: int | None = None,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> Forward:
    """Batch Renormalization of a batch, by its own moments, and the moving update, in one call.

    With mu_B and sigma_B^2 = var_B + epsilon over all positions of a channel, sigma^2 =
    moving_variance + epsilon:

        r = clip(sigma_B / sigma, 1 / r_max, r_max)
        d = clip((mu_B - moving_mean) / sigma, -d_max, d_max)
        y = (x - mu_B) gamma r / sigma_B + gamma d + beta

    The moments of a channel without a single position that counts are 0. The moving update is that
    of `keras_renorm.ops.maths.moving`.

    Args:
        x: [..., channels, ...], float16, bfloat16, float32 or float64; the rank and the number of
            channels must be known.
        gamma: [channels], of type `wide(x.dtype)`, as are all the following.
        beta: [channels].
        moving_mean: [channels].
        moving_variance: [channels].
        r_max: Scalar; a value below 1 counts as 1.
        d_max: Scalar; a value below 0 counts as 0.
        weights: Which positions count: a mask (bool) or weights (at least 0), of the rank of `x`
            and broadcast against it; fastest with size 1 along `axis`. A weight of 0 is a
            position masked.
        axis: The axis of the channels, at least 0.
        epsilon: Added to both variances.
        relu: Whether to take the positive part of y.
        ghost_size: Rows of the batch (the first axis) with moments, r and d of their own; the last
            ghost batch is smaller where they do not divide. None: one for all. `axis` is then at
            least 1.
        momentum: Weight of the old moving statistics in the new ones.
        by_stddev: Whether sigma is averaged, as in Batch Renormalization, and not the variance.
    """
    packed = (loader.STATISTICS, _ghosts(x, ghost_size), x.shape[axis])
    sizes: tuple[Sizes, ...] = (packed, (x.shape[axis],), (x.shape[axis],), ())
    results = _call(
        "forward",
        [x, gamma, beta, moving_mean, moving_variance, r_max, d_max, *_optional(weights, x, axis)],
        [(x.dtype, x.shape.as_list()), *((wide(x.dtype), size) for size in sizes)],
        axis=axis,
        ghost_size=ghost_size,
        relu=relu,
        epsilon=epsilon,
        momentum=momentum,
        by_stddev=by_stddev,
    )
    return Forward(*results)


def _ghosts(x: tf.Tensor, size: int | None) -> int | stablehlo.Quotient:
    """The number of ghost batches of `size` rows, the last of which may have fewer."""
    if size is None:
        return 1
    return stablehlo.Quotient(size) if x.shape[0] is None else -(-x.shape[0] // size)


def backward(
    dy: tf.Tensor,
    x: tf.Tensor,
    statistics: tf.Tensor,
    weights: tf.Tensor | None = None,
    *,
    axis: int,
    relu: bool = False,
    ghost_size: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients of `forward`, r and d held constant, in one call.

    Args:
        dy: Gradient of the output, like x.
        x: The input of `forward`.
        statistics: Its packed statistics.
        weights: Its weights.
        axis: As there.
        relu: As there.
        ghost_size: As there.

    Returns:
        Gradients of x, gamma and beta.
    """
    vector = (statistics.dtype, (x.shape[axis],))
    dx, dgamma, dbeta = _call(
        "backward",
        [dy, x, statistics, *_optional(weights, x, axis)],
        [(x.dtype, x.shape.as_list()), vector, vector],
        axis=axis,
        ghost_size=ghost_size,
        relu=relu,
    )
    return dx, dgamma, dbeta


class Moments(NamedTuple):
    """Moments of a batch: each [channels], float64.

    Attributes:
        count: Number, or total weight, of the positions that counted.
        mean: Their mean; 0 where there are none.
        variance: Their biased variance; 0 where there are none.
    """

    count: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def moments(x: tf.Tensor, weights: tf.Tensor | None = None, *, axis: int) -> Moments:
    """Moments over all positions of each channel, for merging with those of other replicas.

    Args:
        x: As in `forward`, as are the following.
        weights: Which positions count.
        axis: The axis of the channels.
    """
    (result,) = _call(
        "moments",
        [x, *_optional(weights, x, axis)],
        [(tf.float64, (3, x.shape[axis]))],
        axis=axis,
    )
    return Moments(*tf.unstack(result, 3))


def _pack(vectors: tuple[tf.Tensor, ...], dtype: tf.DType) -> tf.Tensor:
    """Packs per-channel operands, [channels] each."""
    return tf.stack([tf.cast(vector, dtype) for vector in vectors])


def normalize(
    x: tf.Tensor,
    mean: tf.Tensor,
    mean_remainder: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    *,
    axis: int,
    relu: bool = False,
) -> tf.Tensor:
    """Normalises with given vectors: y = ((x - mean) - mean_remainder) scale + offset.

    Args:
        x: As in `forward`.
        mean: [channels], as are the following.
        mean_remainder: What rounding to `mean` left out.
        scale: Factor of the centred value.
        offset: Added to the product.
        axis: The axis of the channels.
        relu: Whether to take the positive part of y.
    """
    vectors = _pack((mean, mean_remainder, scale, offset), wide(x.dtype))
    (y,) = _call("normalize", [x, vectors], [(x.dtype, x.shape.as_list())], axis=axis, relu=relu)
    return y


def gradient_sums(
    dy: tf.Tensor,
    x: tf.Tensor,
    mean: tf.Tensor,
    mean_remainder: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    weights: tf.Tensor | None = None,
    *,
    axis: int,
    relu: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The two sums of the backward pass: of dy, and of dy times the centred value.

    Args:
        dy: Gradient of the output of `normalize`.
        x: Its input, as are the following.
        mean: As there.
        mean_remainder: As there.
        scale: As there; read with `relu` only.
        offset: As there; read with `relu` only.
        weights: As in `forward`.
        axis: As there.
        relu: As there.

    Returns:
        Both sums, each [channels], float64.
    """
    vectors = _pack((mean, mean_remainder, scale, offset), wide(x.dtype))
    (sums,) = _call(
        "gradient_sums",
        [dy, x, vectors, *_optional(weights, x, axis)],
        [(tf.float64, (2, x.shape[axis]))],
        axis=axis,
        relu=relu,
    )
    first, second = tf.unstack(sums, 2)
    return first, second


def input_gradient(
    dy: tf.Tensor,
    x: tf.Tensor,
    mean: tf.Tensor,
    mean_remainder: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    bias: tf.Tensor,
    slope: tf.Tensor,
    weights: tf.Tensor | None = None,
    *,
    axis: int,
    relu: bool = False,
) -> tf.Tensor:
    """The input's gradient: dx = scale dy - weight (bias + centred slope).

    With the sums S1, S2 over all m positions of all replicas, bias = scale S1 / m and slope =
    scale S2 / (m sigma_B^2). Where the weight is 0, so is dx.

    Args:
        dy: Gradient of the output of `normalize`.
        x: Its input, as are the following.
        mean: As there.
        mean_remainder: As there.
        scale: As there.
        offset: As there; read with `relu` only.
        bias: Like `mean`.
        slope: Like `mean`.
        weights: As in `forward`.
        axis: As there.
        relu: As there.
    """
    vectors = _pack((mean, mean_remainder, scale, offset, bias, slope), wide(x.dtype))
    (dx,) = _call(
        "input_gradient",
        [dy, x, vectors, *_optional(weights, x, axis)],
        [(x.dtype, x.shape.as_list())],
        axis=axis,
        relu=relu,
    )
    return dx
